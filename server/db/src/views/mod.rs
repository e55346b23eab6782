//! Read models for pages: what a page shows in one or two queries, shaped for it.
//!
//! Must never: change anything, or give out a sealed value.
