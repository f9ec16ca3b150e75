//! lane.
