#!/bin/sh
# Sets eth0 up as the kernel command line says; may be run again after the driver was bound anew.

option() {
	sed -n "s/^\(.* \)\{0,1\}$1=\([^ ]*\).*/\2/p" /proc/cmdline
}

if [ ! -d /sys/class/net/eth0 ]; then
	echo "mpnet: no eth0: the network device is absent or its driver refused it"
	exit 1
fi
mtu=$(option mpnet.mtu)
[ -z "$mtu" ] || ip link set eth0 mtu "$mtu"
ip link set eth0 up
for address in $(option mpnet.ip | tr , ' '); do
	ip address add "$address" dev eth0
done
gateway=$(option mpnet.gateway)
[ -z "$gateway" ] || ip route add default via "$gateway"
