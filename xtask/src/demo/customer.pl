# The demo's customer: asks the web server for a page, a few times, from an address of its own.
use strict;
use warnings;
use IO::Socket::INET;

my ($from, $web, $times) = @ARGV;
for (1 .. $times) {
    my $socket = IO::Socket::INET->new(LocalAddr => $from, PeerAddr => $web, Timeout => 5)
        or die "dial $web: $!";
    print $socket "GET / HTTP/1.0\r\nHost: shop\r\n\r\n";
    my $page = join '', <$socket>;
    $page =~ /visit \d+/ or die "the shop does not work: $page";
}
