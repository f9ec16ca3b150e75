//! bitmap.
