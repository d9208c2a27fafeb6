# A guest's end of UDP flows: what the host asks for over TCP goes out as datagrams, what comes is told there.
# No module is used: in the guest there is the interpreter alone.
#
#   perl relay.pl FAMILY HOST OWN FIRST-PORT FLOWS TCP-PORT       addresses in hex; flow N has FIRST-PORT + N at both ends
#
# host to guest: a batch is its bytes, u32, and records: flow u16, gso_size u16 (0: none), bytes u32, payload.
# guest to host: the same records, without batches. All big-endian. It ends with the connection.

my ($family, $host, $own, $first, $flows, $tcp_port) = @ARGV;
my ($inet, $stream, $datagram) = (2, 1, 2);
my ($sol_socket, $rcvbufforce, $sol_udp, $udp_segment) = (1, 33, 17, 103);

sub name {
	my ($address, $port) = @_;
	return pack($family == $inet ? "S n H8 x8" : "S n x4 H32 x4", $family, $port, $address);
}

sub taken {
	my ($from, $bytes) = @_;
	my $data = "";
	while (length($data) < $bytes) {
		my $got = sysread($from, $data, $bytes - length($data), length($data));
		defined($got) or die "read: $!";
		$got or exit(length($data) ? 1 : 0);
	}
	return $data;
}

sub given {
	my ($to, $data) = @_;
	for (my $done = 0; $done < length($data);) {
		$done += syswrite($to, $data, length($data) - $done, $done) || die "write: $!";
	}
}

my @udp;
for my $flow (0 .. $flows - 1) {
	socket($udp[$flow], $family, $datagram, 0) or die "socket: $!";
	setsockopt($udp[$flow], $sol_socket, $rcvbufforce, pack("i", 16 << 20)) or die "SO_RCVBUFFORCE: $!";
	bind($udp[$flow], name($own, $first + $flow)) or die "bind: $!";
	connect($udp[$flow], name($host, $first + $flow)) or die "connect: $!";
}
# Last: the host sends once there is a connection.
socket(my $tcp, $family, $stream, 0) or die "socket: $!";
connect($tcp, name($host, $tcp_port)) or die "connect: $!";

my $wanted = "";
vec($wanted, fileno($_), 1) = 1 for ($tcp, @udp);
while (select(my $ready = $wanted, undef, undef, undef) > 0) {
	if (vec($ready, fileno($tcp), 1)) {
		# The whole batch before any of it, so that its datagrams follow each other closely.
		my $batch = taken($tcp, unpack("N", taken($tcp, 4)));
		for (my $at = 0; $at < length($batch);) {
			my ($flow, $size, $bytes) = unpack("n n N", substr($batch, $at, 8));
			setsockopt($udp[$flow], $sol_udp, $udp_segment, pack("i", $size)) or die "UDP_SEGMENT: $!";
			defined(send($udp[$flow], substr($batch, $at + 8, $bytes), 0)) or die "send: $!";
			$at += 8 + $bytes;
		}
	}
	for my $flow (0 .. $flows - 1) {
		next unless vec($ready, fileno($udp[$flow]), 1);
		defined(recv($udp[$flow], my $data, 1 << 16, 0)) or die "recv: $!";
		given($tcp, pack("n n N", $flow, 0, length($data)) . $data);
	}
}
die "select: $!";
