//! The museum: historical mistakes of md, and our own, that can be made again on purpose.
//!
//! ```text
//!   umd-sim --features museum --> Options { museum } --> rooms ask `museum.on(Exhibit::M14)`
//!   every other build         --> a value without size, `on` is a constant `false`
//! ```
//!
//! What finds bugs has to be shown to find them. Each exhibit brings one mistake back in the place
//! where this engine takes the decision that was once taken wrongly; what each of them was stands
//! there, and in docs/museum.md. At most one is on in an array. Nothing of it is in a build without
//! the feature.

/// A mistake. `M`: made in md, numbered as in docs/museum.md; `U`: made here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "museum", derive(Debug))]
#[expect(missing_docs, reason = "each is told where it is made, and in docs/museum.md")]
#[rustfmt::skip]
pub enum Exhibit {
    M01, M02, M03, M05, M06, M07, M08, M09, M10, M11, M12, M13, M14, M15, M16, M17, M18, M19, M20,
    M21, M22, M25, M26, M27, M28, M28r, M29, M30, M31, M33, M34, M35, M36, M37, M41, M42, M43, M44,
    M47, M48, M51, M52, M53, M54, M55, M56, M57, M58, M59, M60, M61, M62, M63, M65, M66, M67,
    M68, M69, M70, M71, M72, M73, M74,
    U01, U02, U03, U04, U05, U06, U07, U08, U09, U10, U11, U12, U13, U14, U15, U16, U17, U18,
    U19, U20, U21, U22, U23, U24, U25, U26, U27, U28, U29, U30, U40, U41, U42, U43, U44, U45, U46,
    U47, U48, U49, U50, U51, U60, U61, U62, U63, U64, U65, U66, U67, U68,
}

/// Which mistake an array makes: in a build without the museum, none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Museum {
    #[cfg(feature = "museum")]
    shown: Option<Exhibit>,
}

/// Every way into an exhibit passes this: a program without it has no exhibits.
#[cfg(feature = "museum")]
pub const MARKER: &str = "umd museum: a historical mistake is switched on";

impl Museum {
    /// An array that makes no known mistake.
    pub const NONE: Museum = Museum {
        #[cfg(feature = "museum")]
        shown: None,
    };

    /// An array that makes this mistake.
    #[cfg(feature = "museum")]
    pub const fn showing(exhibit: Exhibit) -> Museum {
        Museum {
            shown: Some(exhibit),
        }
    }

    /// Whether this mistake is to be made.
    #[cfg(feature = "museum")]
    pub fn on(self, exhibit: Exhibit) -> bool {
        self.shown == Some(exhibit) && !std::hint::black_box(MARKER).is_empty()
    }

    /// Whether this mistake is to be made.
    #[cfg(not(feature = "museum"))]
    #[inline(always)]
    pub const fn on(self, _exhibit: Exhibit) -> bool {
        false
    }
}

#[cfg(not(feature = "museum"))]
const _: () = {
    assert!(size_of::<Museum>() == 0);
    assert!(!Museum::NONE.on(Exhibit::M14));
};
