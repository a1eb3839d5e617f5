//! What can be left out when an environment is built. Each option has one name, in signatures and in questions.

/// What is done beside linking files. What is left out makes another environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// Whether modules that come without bytecode are compiled.
    pub bytecode: bool,
    /// Whether the scripts run by which packages finish their installation.
    pub link_scripts: bool,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            bytecode: true,
            link_scripts: true,
        }
    }
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
