//! personality.
