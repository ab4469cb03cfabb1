# The demo's outside: accepts at every given address, says a line and hangs up.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;

my $doors = IO::Select->new(map {
    IO::Socket::INET->new(LocalAddr => $_, Listen => 16, ReuseAddr => 1) or die "listen at $_: $!"
} @ARGV);
while (1) {
    for my $door ($doors->can_read) {
        my $client = $door->accept or next;
        print $client "hello\n";
    }
}
