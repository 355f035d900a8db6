//! The configuration: one YAML file, `MYNAH_...` variables over it, defaults under it.
//!
//! file -> `tree` (places kept) -> `env` (variables laid over) -> `read` (serde) -> `check` (what belongs together).
//! Every step collects problems instead of stopping, so that one run of `mynah check` names them all.
//!
//! Never: opens a socket, creates a directory, prints.

mod check;
mod env;
mod limits;
mod problem;
mod read;
mod settings;
mod tree;
mod units;

#[cfg(test)]
mod tests;

use std::path::Path;

pub(crate) use check::parse_net;
pub(crate) use problem::{Origin, Problem};
pub(crate) use settings::{
    Anonymous, ClientCert, Config, Listener, ListenerAnonymous, ListenerProtocol, LogFormat, MqttTerms,
    MqttVersion, Overlapping, Rule, RuleAction, Secret, Strictness, Tls, User, UserFrom,
};
pub(crate) use units::Size;

use tree::Node;

/// Every key with its default, documented; what `mynah serve` uses without a file.
pub(crate) const DOCUMENTED_DEFAULTS: &str = include_str!("../../../../config/mynah.yaml");

/// The name of the defaults in messages.
const BUILT_IN: &str = "built-in defaults";

/// A configuration that may be used, and what its author should know.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) warnings: Vec<Problem>,
    /// What to call the file in messages.
    pub(crate) file: String,
}

/// What must be corrected first.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) errors: Vec<Problem>,
    pub(crate) file: String,
}

impl Refused {
    /// One line a problem, in the order of the file.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.errors.iter().map(|problem| problem.line(&self.file).to_string()).collect()
    }
}

/// Loads `path` (or the defaults) under the variables `vars`. Errors: all that is wrong, not only the first.
pub(crate) fn load(path: Option<&Path>, vars: &[(String, String)]) -> Result<Loaded, Refused> {
    let file = path.map_or_else(|| BUILT_IN.to_owned(), |path| path.display().to_string());
    let yaml = match path.map(std::fs::read_to_string).transpose() {
        Ok(yaml) => yaml.unwrap_or_default(),
        Err(error) => {
            let text = format!("cannot be read: {error}");
            return Err(Refused { errors: vec![Problem::new(Origin::Default, "", text)], file });
        }
    };
    parse(&yaml, file, vars)
}

/// [`load`] after the file was read.
pub(crate) fn parse(yaml: &str, file: String, vars: &[(String, String)]) -> Result<Loaded, Refused> {
    let mut errors = Vec::new();
    let (mut tree, defaults) = match (Node::parse(yaml), Node::parse(DOCUMENTED_DEFAULTS)) {
        (Ok(tree), Ok(defaults)) => (tree, defaults),
        (Err(problem), _) | (_, Err(problem)) => return Err(Refused { errors: vec![problem], file }),
    };
    env::overlay(&mut tree, &defaults, vars, &|path| std::fs::read_to_string(path), &mut errors);
    let config: Option<Config> = read::read(&mut tree, &mut errors);
    let mut warnings = Vec::new();
    // Values that belong together are judged only when each was read: half a list gives wrong verdicts.
    if let (Some(config), true) = (&config, errors.is_empty()) {
        let judged = check::Judge::new(&tree).config(config);
        errors = judged.errors;
        warnings = judged.warnings;
    }
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, warnings, file }),
        _ => {
            errors.sort_by_key(|problem| match problem.origin {
                Origin::File { line, column } => (0, line, column),
                Origin::Env(_) | Origin::Default => (1, 0, 0),
            });
            Err(Refused { errors, file })
        }
    }
}
