//! Headers as checked views.
