#!/bin/sh
# Runs the host's commands, several at a time, and answers over a virtio-serial port, or the terminal that
# mpnet.agent=DEVICE on the kernel command line names, in lines of text:
#   host to guest   run ID BASE64-OF-A-SHELL-SCRIPT        kill ID
#   guest to host   ready BOOT-ID RELEASE                  done ID STATUS BASE64-OF-STDOUT BASE64-OF-STDERR
# An empty output is sent as "-".

jobs=/run/mpnet-agent
mkdir -p "$jobs"

port=$(sed -n 's/^\(.* \)\{0,1\}mpnet\.agent=\([^ ]*\).*/\2/p' /proc/cmdline)
[ -z "$port" ] || stty -F "$port" raw -echo
while [ -z "$port" ]; do
	for entry in /sys/class/virtio-ports/*; do
		if [ "$(cat "$entry/name" 2>/dev/null)" = mpnet.agent ]; then
			port=/dev/${entry##*/}
		fi
	done
	[ -n "$port" ] || sleep 0.1
done
exec 3<>"$port"

encoded() {
	if [ -s "$1" ]; then base64 -w 0 "$1"; else printf -- -; fi
}

# All answers go through one writer, so that lines never mix: a job's end is a short, hence atomic, write to a FIFO.
mkfifo "$jobs/ended"
exec 4<>"$jobs/ended"
answer() {
	# A line cut short by the last reboot ends here.
	printf '\nready %s %s\n' "$(cat /proc/sys/kernel/random/boot_id)" "$(uname -r)" >&3
	while read -r id status <&4; do
		{
			printf 'done %s %s ' "$id" "$status"
			encoded "$jobs/$id.out"
			printf ' '
			encoded "$jobs/$id.err"
			printf '\n'
		} >&3
		rm -f "$jobs/$id".*
	done
}
answer &

run() {
	echo "$2" | base64 -d >"$jobs/$1.sh"
	# A session of its own: "kill" reaches everything the command started.
	setsid sh "$jobs/$1.sh" </dev/null >"$jobs/$1.out" 2>"$jobs/$1.err" 3>&- 4>&- &
	echo $! >"$jobs/$1.pid"
	wait $!
	echo "$1 $?" >&4
}

# A read ends early while the host's side is not connected yet.
while :; do
	while read -r verb id script <&3; do
		case $verb in
		run) run "$id" "$script" & ;;
		kill) kill -9 -- "-$(cat "$jobs/$id.pid")" 2>/dev/null ;;
		esac
	done
	sleep 0.1
done
