//! Both directions, until both are over.

use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use crate::end::{Client, End, Kind, Target};
use crate::flow::{Fault, Flow, Wait};
use crate::sys;

/// How much of a stream is copied at once. What fills it moves through a pipe afterwards.
const STREAM: usize = 16 << 10;

/// The longest message: more than the default buffer of a unix socket.
const MESSAGE: usize = 256 << 10;

/// The longest datagram of UDP over IPv4. What is made of a stream fits into other sockets too.
const DATAGRAM: usize = 65_507;

/// The buffers of both directions. The kernel gives memory to the pages that are used.
static BUFFERS: Mutex<[[u8; MESSAGE]; 2]> = Mutex::new([[0; MESSAGE]; 2]);

/// How long a reset waits for the peer to acknowledge what it was sent before.
const BEFORE_RESET: Duration = Duration::from_secs(1);

/// Indices of the ends. A client with one socket has no output of its own.
const INPUT: usize = 0;
const OUTPUT: usize = 1;
const TARGET: usize = 2;

/// The directions, as indices.
const OUT: usize = 0;
const BACK: usize = 1;

/// The state of a connection.
struct Relay<'a> {
    /// From the client to the target, and back.
    flows: [Flow<'a>; 2],
    /// The indices of their sources and destinations.
    ends: [(usize, usize); 2],
    descriptors: [BorrowedFd<'a>; 3],
    /// Ends of which poll(2) has nothing new to say unless a direction waits for them: it would return at once.
    hung_up: [bool; 3],
    /// Whose connection was reset, and why if that is worth a message.
    reset: Option<(usize, Option<Errno>)>,
}

/// Forwards until both directions are over. `timeout` limits the wait for the answer to the last datagram of
/// a client that has no more.
pub(crate) fn run(
    client: &Client,
    target: &Target,
    header: &[u8],
    timeout: Duration,
) -> Result<(), String> {
    let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    let [out, back] = &mut *buffers;
    let input = End {
        descriptor: client.input,
        kind: client.kind,
    };
    let output = End {
        descriptor: client.output,
        kind: client.output_kind,
    };
    let out = &mut out[..space(client.kind, target.kind)];
    let back = &mut back[..space(target.kind, client.output_kind)];
    let mut relay = Relay {
        flows: [
            Flow::new(input, target.end(), out, header),
            Flow::new(target.end(), output, back, &[]),
        ],
        ends: [
            (INPUT, TARGET),
            (TARGET, if client.is_one { INPUT } else { OUTPUT }),
        ],
        descriptors: [client.input, client.output, target.end().descriptor],
        hung_up: [false; 3],
        reset: None,
    };
    // The client has probably sent something while the target was connected to.
    relay.advance(OUT, false);
    relay.forward(client, target, timeout)?;
    match relay.reset {
        None => Ok(()),
        Some((end, why)) => {
            let (other, name) = match end {
                TARGET => (output, "the target"),
                _ => (target.end(), "the client"),
            };
            reset(other);
            match why {
                None => Ok(()),
                Some(errno) => Err(format!("the connection to {name} failed: {}", errno.desc())),
            }
        }
    }
}

/// Returns how much is read at once.
fn space(from: Kind, to: Kind) -> usize {
    if from.has_messages() {
        MESSAGE
    } else if to.has_messages() {
        DATAGRAM
    } else {
        STREAM
    }
}

impl Relay<'_> {
    fn forward(
        &mut self,
        client: &Client,
        target: &Target,
        timeout: Duration,
    ) -> Result<(), String> {
        let mut last_answer = None;
        while !self.flows.iter().all(Flow::is_over) {
            let mut limit = PollTimeout::NONE;
            if target.kind == Kind::Datagram && self.flows[OUT].is_over() {
                // The client has no more, and a datagram socket has no end of file.
                let (answers, end) =
                    *last_answer.get_or_insert((self.flows[BACK].writes, Instant::now() + timeout));
                let left = end.saturating_duration_since(Instant::now());
                if client.kind.has_messages()
                    || self.flows[OUT].writes == 0
                    || self.flows[BACK].writes > answers
                    || left.is_zero()
                {
                    return Ok(());
                }
                // Rounded up, so that the last wait isn't a spin of empty ones.
                let left = left + Duration::from_millis(1);
                limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            }
            self.wait(limit)
                .map_err(|errno| format!("can't wait for data: {}", errno.desc()))?;
        }
        Ok(())
    }

    /// Waits for events, and moves what can be moved.
    fn wait(&mut self, limit: PollTimeout) -> Result<(), Errno> {
        let mut wanted = [PollFlags::empty(); 3];
        let mut in_use = [false; 3];
        for (flow, (from, to)) in self.flows.iter().zip(self.ends) {
            match flow.wait {
                Wait::Input => wanted[from] |= PollFlags::POLLIN,
                Wait::Output => wanted[to] |= PollFlags::POLLOUT,
                Wait::Over => continue,
            }
            in_use[from] = true;
            in_use[to] = true;
        }
        let mut polled = self
            .descriptors
            .map(|descriptor| PollFd::new(descriptor, PollFlags::empty()));
        let mut indices = [0; 3];
        let mut count = 0;
        for end in 0..3 {
            let silent = wanted[end].is_empty() && self.hung_up[end];
            if in_use[end] && !silent {
                polled[count] = PollFd::new(self.descriptors[end], wanted[end]);
                indices[count] = end;
                count += 1;
            }
        }
        match poll(&mut polled[..count], limit) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        let mut ready = [PollFlags::empty(); 3];
        for (one, end) in polled[..count].iter().zip(indices) {
            ready[end] = one.revents().unwrap_or(PollFlags::empty());
        }
        for end in 0..3 {
            if wanted[end].is_empty() && !ready[end].is_empty() {
                self.hang_up(end, ready[end]);
            }
        }
        for (index, (from, to)) in self.ends.into_iter().enumerate() {
            let (events, wait) = match self.flows[index].wait {
                Wait::Input => (ready[from], PollFlags::POLLIN),
                Wait::Output => (ready[to], PollFlags::POLLOUT),
                Wait::Over => continue,
            };
            let always = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
            if events.intersects(always | wait) {
                self.advance(index, true);
            }
        }
        Ok(())
    }

    /// An event at an end that nothing waits for: it is gone, or was reset.
    fn hang_up(&mut self, end: usize, events: PollFlags) {
        self.hung_up[end] = true;
        if !events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL) {
            return;
        }
        let error = getsockopt(&self.descriptors[end], sockopt::SocketError);
        let of_datagram = |flow: &Flow<'_>, (from, to): (usize, usize)| {
            from == end && flow.from.kind == Kind::Datagram
                || to == end && flow.to.kind == Kind::Datagram
        };
        let datagrams = self
            .flows
            .iter()
            .zip(self.ends)
            .any(|(flow, ends)| of_datagram(flow, ends));
        match error {
            Ok(0) => {}
            Ok(_) if datagrams => {}
            Ok(number) => {
                self.note_reset(end, Errno::from_raw(number));
                self.stop_writing(end);
            }
            // A pipe without a reader.
            Err(_) => self.stop_writing(end),
        }
    }

    fn advance(&mut self, index: usize, polled: bool) {
        let (from, to) = self.ends[index];
        match self.flows[index].advance(polled) {
            Ok(()) => {}
            Err(Fault::Input(errno)) => {
                self.flows[index].wait = Wait::Over;
                self.note_reset(from, errno);
                self.stop_writing(from);
            }
            Err(Fault::Output(errno)) => {
                // With EPIPE there was an end of file before, or the end has stopped reading only.
                if errno != Errno::EPIPE {
                    self.note_reset(to, errno);
                }
                self.stop_writing(to);
            }
        }
    }

    /// What goes to this end is over. What comes from it is still forwarded.
    fn stop_writing(&mut self, end: usize) {
        for (flow, (_, to)) in self.flows.iter_mut().zip(self.ends) {
            // Without an output of the client there is nothing to forward for.
            if to == end || end == OUTPUT {
                flow.wait = Wait::Over;
            }
        }
    }

    fn note_reset(&mut self, end: usize, errno: Errno) {
        let is_usual = matches!(errno, Errno::ECONNRESET | Errno::EPIPE);
        self.reset
            .get_or_insert((end, (!is_usual).then_some(errno)));
        for (flow, (from, _)) in self.flows.iter_mut().zip(self.ends) {
            flow.is_cut |= from == end;
        }
    }
}

/// Resets the connection to an end, as the other one was. What has arrived of an answer isn't taken back:
/// a close with a reset discards what the peer hasn't acknowledged.
fn reset(end: End<'_>) {
    let until = Instant::now() + BEFORE_RESET;
    while end.kind == Kind::Stream
        && sys::unacknowledged(end.descriptor) > 0
        && Instant::now() < until
    {
        let mut gone = [PollFd::new(end.descriptor, PollFlags::empty())];
        if poll(&mut gone, 10_u8) != Ok(0) {
            break;
        }
    }
    end.reset_at_close();
}
