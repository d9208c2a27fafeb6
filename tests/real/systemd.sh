#!/bin/bash
# systemd.sh FOLDER CGROUP SOURCE PYTHON PACKAGES: systemd as the first process of namespaces of its own.
#
# Its root is a layer over this machine's, of which it changes nothing, and it knows no units but empty targets and what
# is installed later: no service of the distribution is started. FOLDER is empty and CGROUP its own; SOURCE is a checkout,
# PYTHON the prefix of an interpreter and PACKAGES where what that imports is. Those three may lie in somebody's home,
# which services do not see.
set -eu
export folder=$1 source=$3 python=$4 packages=$5
echo $$ > "$2/cgroup.procs"
exec unshare --cgroup --mount --pid --fork --uts --ipc --net --kill-child bash -eu -c '
mount --make-rprivate /
mount -t tmpfs tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" overlay "$folder/root"
cd "$folder/root"
# As a fresh machine: no unit but those that the test has installed, and no folder that its distribution lacks.
rm -rf etc/sysusers.d etc/tmpfiles.d etc/mpnet
for each in dev run tmp opt etc/systemd/system; do mount -t tmpfs -o mode=755 tmpfs $each; done
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir dev/net dev/shm
for each in null zero full random urandom net/tun; do touch dev/$each; mount --bind /dev/$each dev/$each; done
mount -t tmpfs tmpfs dev/shm
for each in source python packages; do
  mkdir opt/$each
  mount --bind "${!each}" opt/$each
  mount -o remount,bind,ro opt/$each
done
pivot_root . mnt
umount -l /mnt
cd /

units=/etc/systemd/system
mkdir -p $units/mpnet@.service.d /opt/mpnet/bin
for each in idle sysinit basic sockets shutdown; do
  printf "[Unit]\nDefaultDependencies=no\n" > $units/$each.target
done
getent group kvm || echo "g kvm -" | systemd-sysusers -
printf "[Service]\nStandardError=append:/run/log\nEnvironment=MPNET_JIT=0\n" > $units/mpnet@.service.d/test.conf
cat > /opt/mpnet/bin/mpnet <<END
#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/source:/opt/packages
exec /opt/python/bin/python3 -c "from mpnet.cli.main import main; main()" "\$@"
END
chmod +x /opt/mpnet/bin/mpnet
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/lib/systemd container=other SYSTEMD_UNIT_PATH=$units SYSTEMD_GENERATOR_PATH=/opt/none
exec systemd --system --unit=idle.target --log-target=null --show-status=no
'
