//! How RON is written in snapshots.

use ron::ser::PrettyConfig;

/// The number of levels that are written with line breaks.
const DEPTH: usize = 7;

/// The style of a value that is `level` levels below the snapshot.
pub(crate) fn pretty(level: usize) -> PrettyConfig {
    PrettyConfig::new()
        .depth_limit(DEPTH - level)
        .separate_tuple_members(false)
        .compact_arrays(false)
}
