//! Out of the cluster with the members in hand: nobody else comes in while they are rewritten.
//!
//! ```text
//!   rest -> Draining -- the array rests --> Closing -- alone --> Alone -- turned --> left, over
//!              | others are in: refused        | somebody came in, or no answer
//!              +-- nothing has changed         +--> left, over: it is for the caller to join again
//! ```
//!
//! Who joins reads what the members of the cluster show before it reads disks. A size that no array
//! has is one it cannot follow: it goes again, and has read and written nothing. What this node
//! shows has its place in the log; a right that is granted behind it says that every join before
//! that place is known here. (The kernel takes the locks of all bitmaps for the same purpose.)

use std::collections::BTreeMap;

use umd_cluster::Clock;
use umd_core::array::{Command, Commands, ControlError, Input};
use umd_core::cluster::{
    End, Fencing as Grant, Leave, Right, ServiceCommand, ServiceEvent, SlotValue,
};
use umd_core::value::{ControlId, Instant, Now, Span};

use super::ClusterNode;
use crate::daemon::engine::{Ending, Permit};

/// How long the lock service has to say that nobody else is in.
const PATIENCE: Span = Span::secs(10);
/// The right that is asked for behind what this node shows.
const ORDER: Right = Right::Resync;

/// How far a node is on its way out.
#[derive(Debug, Default)]
enum Stage {
    /// It is not.
    #[default]
    Not,
    Draining,
    Closing {
        how: Leave,
        until: Instant,
        /// A grant may be of what the array asked for before. The second cannot be.
        first: bool,
    },
    Alone(Leave),
    Over,
}

/// On the way out.
#[derive(Debug, Default)]
pub(super) struct Parting {
    stage: Stage,
    /// The rights this node has.
    rights: BTreeMap<Right, Grant>,
    /// Why members are not rewritten.
    why: Option<String>,
    pub(super) end: Option<End>,
}

impl Parting {
    /// What the service is told, or tells, of rights.
    pub(super) fn note(&mut self, command: &ServiceCommand) {
        if let ServiceCommand::Release(right, _) = command {
            self.rights.remove(right);
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        matches!(self.stage, Stage::Draining)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Closing { until, .. } => Some(until),
            _ => None,
        }
    }
}

impl ClusterNode {
    /// To come to rest; refused while others are in, or may be.
    pub(super) fn begin_parting(&mut self, id: ControlId, now: Now, out: &mut Commands) {
        let node = self.array.node();
        let why = if self.leaving {
            Some("it is being stopped".to_owned())
        } else if !node.is_active() {
            Some("the array is being started".to_owned())
        } else {
            self.company()
        };
        if let Some(why) = why {
            let result = Err(ControlError::Busy(why));
            return out.push(Command::Answer { id, result });
        }
        self.stopping.push(id);
        self.leaving = true;
        self.parting.stage = Stage::Draining;
        self.step(now, Input::Stop, out);
    }

    /// Who else is in the cluster, or may be.
    fn company(&self) -> Option<String> {
        let node = self.array.node();
        let mut peers = node.peers();
        if let Some(peer) = peers.next() {
            let about = self.service.about(peer);
            let host = about.and_then(|about| about.host);
            let host = host.map_or(String::new(), |host| format!(" ({host})"));
            return Some(format!("{}{host} runs it as well", peer.slot));
        }
        let dead = node.has_unrecovered();
        dead.then(|| "a node that has gone is still to be recovered".to_owned())
    }

    /// The array rests, and its node would leave now.
    pub(super) fn close(&mut self, how: Leave, now: Instant) {
        self.service.submit(ServiceCommand::SetValue(SlotValue {
            window: None,
            owes_resync: how == Leave::Dirty,
            shown_sectors: Some(u64::MAX),
        }));
        if let Some(grant) = self.parting.rights.remove(&ORDER) {
            self.service.submit(ServiceCommand::Release(ORDER, grant));
        }
        self.service.submit(ServiceCommand::Acquire(ORDER));
        self.parting.stage = Stage::Closing {
            how,
            until: now + PATIENCE,
            first: true,
        };
    }

    /// Whether this event is for who parts, and not for the node.
    pub(super) fn hear_parting(&mut self, event: &ServiceEvent) -> bool {
        let ServiceEvent::Granted(right, grant) = event else {
            return false;
        };
        self.parting.rights.insert(*right, *grant);
        match self.parting.stage {
            Stage::Closing {
                how,
                until,
                first: true,
            } if *right == ORDER => {
                let first = false;
                self.parting.stage = Stage::Closing { how, until, first };
                self.service.submit(ServiceCommand::Release(ORDER, *grant));
                self.service.submit(ServiceCommand::Acquire(ORDER));
                true
            }
            Stage::Closing { how, .. } if *right == ORDER => {
                match self.company() {
                    None => self.parting.stage = Stage::Alone(how),
                    Some(why) => self.give_up(how, format!("{why} since a moment ago")),
                }
                true
            }
            _ => false,
        }
    }

    /// Time has passed.
    pub(super) fn tend_parting(&mut self, now: Instant) {
        if let Stage::Closing { how, until, .. } = self.parting.stage
            && until <= now
        {
            let text = "the lock service did not say in time that no other host is in";
            self.give_up(how, text.into());
        }
    }

    fn give_up(&mut self, how: Leave, why: String) {
        self.parting.why = Some(why);
        self.parting.stage = Stage::Over;
        self.service.submit(ServiceCommand::Leave(how));
    }

    pub(super) fn is_alone(&self) -> bool {
        matches!(self.parting.stage, Stage::Alone(_)) && self.parting.end.is_none()
    }

    /// Members may be written as long as nobody else can have been told that this node is gone.
    pub(super) fn permit_of_session(&self) -> Permit {
        let validity = self.service.validity();
        Box::new(move || Clock.now() < validity())
    }

    /// Members were rewritten, or were not.
    pub(super) fn part(&mut self, rewritten: bool) {
        let Stage::Alone(how) = self.parting.stage else {
            return; // The session was lost meanwhile.
        };
        // The bits of all slots went along: there is nothing in this one for anybody to take.
        let how = match rewritten {
            true => Leave::Clean,
            false => how,
        };
        self.parting.stage = Stage::Over;
        self.service.submit(ServiceCommand::Leave(how));
    }

    /// How it ended, where nothing was rewritten.
    pub(super) fn ending(&self) -> Ending {
        match (&self.parting.end, &self.parting.why) {
            (Some(End::Left | End::NeverJoined), Some(why)) => Ending::Left(why.clone()),
            (Some(End::Left | End::NeverJoined), None) => {
                Ending::Left("it has left its cluster".into())
            }
            (Some(End::Lost) | None, _) => Ending::Lost,
        }
    }
}
