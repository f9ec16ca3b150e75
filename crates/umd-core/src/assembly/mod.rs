//! assembly.
