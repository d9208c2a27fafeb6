#!/bin/busybox sh
# Process 1 of the throw-away guest: mounts, loads modules, sets eth0 up, starts the agent. The kernel command
# line may say: mpnet.ip=ADDRESS/PREFIX[,...] mpnet.mtu=BYTES mpnet.gateway=ADDRESS mpnet.agent=DEVICE mpnet.shell=1.

/bin/busybox mkdir -p /proc /sys /dev /run /tmp /root /usr/bin /usr/sbin /sbin
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
hostname mpnet-guest

# Hot-added memory goes straight into use, also for packets.
echo online >/sys/devices/system/memory/auto_online_blocks
# Addresses are private to one link: waiting for duplicates only delays the first packet.
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad

# virtio-pci before virtio-mmio and net before console: eth0 and the agent's port get the same names each boot.
for module in virtio_pci virtio_mmio virtio_net virtio_console 8021q; do
	modprobe "$module" || echo "mpnet: modprobe $module failed"
done

ip link set lo up
sh /network.sh

setsid sh /agent.sh &

if grep -qw mpnet.shell=1 /proc/cmdline; then
	echo "A throw-away Linux guest. exit, poweroff or Ctrl-A X ends it."
	setsid cttyhack sh
	poweroff -f
fi
# Process 1 must never end, and reaps what others leave.
while :; do
	sleep 3600 &
	wait
done
