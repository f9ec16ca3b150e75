//! The rules that keep a cluster from hanging and from losing anything, each with a switch.
//!
//! ```text
//!   tests, feature museum --> Rules::without(Rule::D1) --> Node asks `rules.keep(Rule::D1)`
//!   every other build     --> a value without size, `keep` is a constant `true`
//! ```
//!
//! A rule that nothing breaks when it is off is not known to be needed, and a search that finds
//! nothing without it is not known to look. D1 to D8 are the deadlocks of md-cluster they keep
//! away.

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Peers are answered while a superblock update waits for the token.
    D1,
    /// Peers are answered until this node has left.
    D2,
    /// Peers are answered while a superblock update waits behind a window that waits for the token.
    D3,
    /// Peers are answered while any other message waits for the token.
    D4,
    /// The cluster is left before what serves its messages is taken down.
    D5,
    /// A receiver that cannot do what is asked says so.
    D6,
    /// Peers are answered while a bitmap's new size waits for the token.
    D7,
    /// Nothing is sent before the array is loaded.
    D8,
    /// After the token has come, what it was wanted for is looked at again.
    Recheck,
    /// After a node died, superblocks are read again before they are written.
    Refresh,
    /// Bits of a dead node are on the members as ours before they are cleared as its.
    CopyFirst,
    /// A dead node's slot is taken when there is a proof that it writes no more.
    Proof,
    /// A window is acknowledged when no write is under way in it.
    Quiesce,
    /// A window at the start of the array is one.
    ZeroIsNotNone,
    /// An update is over when who is down was fenced, too.
    AwaitFence,
    /// A window is shown to who joins before it is told to who is there.
    ValueFirst,
    /// Messages are received when the array is loaded: there is something that can follow them.
    LoadFirst,
    /// Superblocks that were told of are read before that is acknowledged.
    Follow,
    /// Who joins shows the array no larger than who is there.
    ShownSize,
}

/// Which rule is off: in a build without tests or museum, none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rules {
    #[cfg(any(test, feature = "museum"))]
    off: Option<Rule>,
}

impl Rules {
    /// All of them.
    pub const ALL: Rules = Rules {
        #[cfg(any(test, feature = "museum"))]
        off: None,
    };

    /// All but one.
    #[cfg(any(test, feature = "museum"))]
    pub const fn without(rule: Rule) -> Rules {
        Rules { off: Some(rule) }
    }

    /// Whether it is kept.
    #[cfg(any(test, feature = "museum"))]
    pub fn keep(self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    /// Whether it is kept.
    #[cfg(not(any(test, feature = "museum")))]
    #[inline(always)]
    pub const fn keep(self, _rule: Rule) -> bool {
        true
    }
}

#[cfg(not(any(test, feature = "museum")))]
const _: () = assert!(size_of::<Rules>() == 0);
