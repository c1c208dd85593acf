//! A bad wire between the LAN and a host: frames are lost, come late and come twice. The kernel need not have netem: socat
//! turns each end into a tap, and what is between them is here.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::lan::{Background, Host, Lan, run, start, within};

/// Of a hundred frames.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) late: u64,
    pub(crate) twice: u64,
}

pub(crate) struct Wire {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _ends: [Background; 2],
}

/// Ports on the loopback of each end: socat's and ours.
const SOCAT: u16 = 7000;
const OURS: u16 = 7001;

impl Wire {
    /// Replaces the host's `lan0` by one behind the wire, with this address.
    pub(crate) fn lay(lan: &Lan, host: &Host, address: &str, faults: Faults) -> Wire {
        assert!(run(&host.space, "ip link del lan0").0);
        let own = |space: &str| {
            within(space, || {
                let socket = UdpSocket::bind(("127.0.0.1", OURS)).unwrap();
                socket.connect(("127.0.0.1", SOCAT)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                socket
            })
            .join()
            .unwrap()
        };
        let (near, far) = (own(lan.space()), own(&host.space));
        let socat = |space: &str, name: &str| {
            let line = format!(
                "socat TUN,tun-type=tap,iff-no-pi,tun-name={name} UDP4-DATAGRAM:127.0.0.1:{OURS},bind=127.0.0.1:{SOCAT}"
            );
            start(space, &line)
        };
        let ends = [socat(lan.space(), "wire0"), socat(&host.space, "lan0")];
        for (space, line) in [
            (lan.space(), "ip link set wire0 master br0 up".to_owned()),
            (&host.space, format!("ip addr add {address} dev lan0")),
            (&host.space, "ip link set lan0 up".to_owned()),
        ] {
            // socat needs a moment to make its tap.
            let limit = Instant::now() + Duration::from_secs(20);
            while !run(space, &line).0 {
                assert!(Instant::now() < limit, "{line}");
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let directions = [(&near, &far, 1), (&far, &near, 2)];
        let threads = directions.map(|(from, to, seed)| {
            let (from, to, stop) = (from.try_clone().unwrap(), to.try_clone().unwrap(), stop.clone());
            std::thread::spawn(move || carry(&from, &to, faults, seed, &stop))
        });
        Wire { stop, threads: threads.into(), _ends: ends }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn carry(from: &UdpSocket, to: &UdpSocket, faults: Faults, mut state: u64, stop: &AtomicBool) {
    // xorshift64: the same faults in every run, as far as the frames are the same.
    let mut dice = move || {
        state = state.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D;
        state ^= state >> 29;
        (state >> 16) % 100
    };
    let (mut buffer, mut late) = ([0; 4096], None::<Vec<u8>>);
    while !stop.load(Relaxed) {
        let Ok(len) = from.recv(&mut buffer) else {
            let _ = late.take().map(|frame| to.send(&frame));
            continue;
        };
        if dice() < faults.lost {
            continue;
        }
        if late.is_none() && dice() < faults.late {
            late = Some(buffer[..len].to_vec());
            continue;
        }
        let _ = to.send(&buffer[..len]);
        if dice() < faults.twice {
            let _ = to.send(&buffer[..len]);
        }
        let _ = late.take().map(|frame| to.send(&frame));
    }
}
