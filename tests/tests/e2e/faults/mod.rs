//! Everything that can go wrong around the agent, each made to go wrong: it is killed, its disk is
//! full, its receivers misbehave, clocks differ, the kernel's tables overflow, cgroups come and go by
//! the thousand. What it has accepted is not lost, what it could not see is counted.

mod canary;
mod cgroups;
mod clocks;
mod disk;
mod end;
mod kill;
mod losses;
mod receivers;
