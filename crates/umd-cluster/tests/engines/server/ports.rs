//! Ports of loopback for programs that have to be told one.
//!
//! A port that the kernel chooses (`127.0.0.1:0`) lies in the range from which it serves everybody:
//! freed before a program takes it, or while that program is dead and about to be started again, it
//! may have gone to any other socket of this machine. Those given here lie below that range.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that the kernel chooses, and above those of common services.
const FROM: u16 = 12_000;
/// How many there are at most. What lies behind them begins at 32768 unless it was set otherwise.
const MANY: u16 = 20_000;

/// The next one to look at, counted from where this process began.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// An address of loopback on which nobody listens, which is given to no other test of this process,
/// and which the kernel gives to no one.
///
/// # Panics
/// When all are taken.
pub fn free_address() -> SocketAddr {
    let first_chosen = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first_chosen = first_chosen.ok().and_then(|range| {
        let first = range.split_whitespace().next()?;
        first.parse::<u16>().ok()
    });
    let many = first_chosen.map_or(MANY, |first| first.saturating_sub(FROM).clamp(1_000, MANY));
    // Several test programs may run at once: they begin at different places.
    let begin = u64::from(std::process::id()) * 61;
    for _ in 0..many {
        let step = u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let offset = u16::try_from((begin + step) % u64::from(many)).expect("below a u16");
        let address = SocketAddr::from(([127, 0, 0, 1], FROM + offset));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("all ports from {FROM} on are taken");
}
