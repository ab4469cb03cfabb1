# Connects to itself, accepts, closes, again and again: the processor time holds both ends. Prints
# microseconds a connection.
use strict;
use warnings;
use Socket;

my ($times) = @ARGV;
my $address = pack_sockaddr_in(7100, inet_aton('127.0.0.1'));
socket(my $server, PF_INET, SOCK_STREAM, 0) or die $!;
setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1) or die $!;
bind($server, $address) && listen($server, 16) or die $!;
my ($user, $system) = times;
for (1 .. $times) {
    socket(my $client, PF_INET, SOCK_STREAM, 0) or die $!;
    setsockopt($client, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)) or die $!;
    connect($client, $address) or die $!;
    accept(my $accepted, $server) or die $!;
    close $client;
    close $accepted;
}
my ($user_after, $system_after) = times;
printf "%.3f\n", 1e6 * ($user_after + $system_after - $user - $system) / $times;
