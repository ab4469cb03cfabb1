# The demo's API: answers every GET with a counter that it keeps in Redis.
use strict;
use warnings;
use IO::Socket::INET;

my ($listen, $database) = @ARGV;
my $server = IO::Socket::INET->new(LocalAddr => $listen, Listen => 16, ReuseAddr => 1)
    or die "listen at $listen: $!";
while (my $client = $server->accept) {
    while (my $line = <$client>) { last if $line =~ /^\r?\n$/ }
    my $visits = 'unknown';
    if (my $redis = IO::Socket::INET->new(PeerAddr => $database, Timeout => 2)) {
        print $redis "INCR visits\r\n";
        $visits = $1 if (<$redis> // '') =~ /^:(\d+)/;
    }
    print $client "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nvisit $visits\n";
}
