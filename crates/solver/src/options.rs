//! How an environment is made of its packages. What is not the default enters its signature by name.

/// What of a build can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// Whether modules are compiled that packages bring without bytecode.
    pub bytecode: bool,
    /// Whether the packages' link scripts are run.
    pub link_scripts: bool,
}

impl BuildOptions {
    /// The names of what is left out, sorted.
    pub(crate) fn off(self) -> impl Iterator<Item = &'static str> {
        [("link-scripts", self.link_scripts), ("pyc", self.bytecode)]
            .into_iter()
            .filter(|(_, is_on)| !is_on)
            .map(|(name, _)| name)
    }
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            bytecode: true,
            link_scripts: true,
        }
    }
}
