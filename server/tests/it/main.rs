//! Tests of the workspace server over real HTTP.
