//! What commands that change names share: who does it, what is expected, and telling what became of it.

use envfs_store::Store;
use envfs_store::environment;
use envfs_store::name::Name;
use envfs_store::names::{Author, Expected, NameError, Named, Names};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::surroundings::variable;
use crate::{output, stable};

/// How a name is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct ChangeArgs {
    /// Why, for the history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    #[command(flatten)]
    expected: ExpectedArgs,
}

/// What must be true of a name for it to be changed.
#[derive(Debug, clap::Args)]
pub(crate) struct ExpectedArgs {
    /// Change it only if it stands for this environment now, or `none`: if there is no such name
    #[arg(long, value_name = "SIGNATURE|none")]
    expect: Option<String>,
}

/// A name after a change.
#[derive(Serialize)]
struct Changed<'a> {
    name: &'a Name,
    signature: String,
    number: u64,
    /// What it stood for before, if that was something else.
    before: Option<String>,
    changed: bool,
}

impl ExpectedArgs {
    pub(crate) fn expected(&self, store: &Store) -> Result<Option<Expected>, CliError> {
        Ok(match self.expect.as_deref() {
            None => None,
            Some("none") => Some(Expected::Nothing),
            // A whole one need not be in the store any more.
            Some(text) => Some(Expected::Signature(match text.parse() {
                Ok(signature) => signature,
                Err(_) => environment::find(store, text)?.signature,
            })),
        })
    }
}

/// Changes `name` by `change`, and tells what became of it.
pub(crate) fn change(
    context: &Context,
    name: &Name,
    args: &ChangeArgs,
    change: impl FnOnce(&Names, &Author, Option<&Expected>) -> Result<Named, NameError>,
) -> Result<(), CliError> {
    let store = context.store()?;
    let names = Names::of(&store);
    let author = Author {
        by: user(),
        message: args.message.clone(),
    };
    let expected = args.expected.expected(&store)?;
    let number_before = names.get(name)?.map_or(0, |named| named.current.number);
    let named = change(&names, &author, expected.as_ref()).map_err(|error| who_may(error, &store))?;
    report(context, &named, named.current.number != number_before)?;
    stable::follow(context, Some(name)).map(drop)
}

/// Says who may change names to whom may not.
pub(crate) fn who_may(error: NameError, store: &Store) -> CliError {
    let is_refused = matches!(&error, NameError::Store(error) if error.is_read_only());
    let error = CliError::from(error);
    if is_refused {
        let refs = store.root().join("refs");
        error.help(format!("who may write to `{}` may change names", refs.display()))
    } else {
        error
    }
}

fn report(context: &Context, named: &Named, is_changed: bool) -> Result<(), CliError> {
    let before = named.earlier.first().filter(|_| is_changed);
    let signature = named.current.signature.to_string();
    if context.json {
        return context.print_json(&Changed {
            name: &named.name,
            signature,
            number: named.current.number,
            before: before.map(|change| change.signature.to_string()),
            changed: is_changed,
        });
    }
    output::line(&signature)?;
    context.note(&match (is_changed, before) {
        (false, _) => format!("{} stood for it already", named.name),
        (true, None) => format!("{} stands for it", named.name),
        (true, Some(before)) => format!(
            "{} stands for it, and no longer for {}",
            named.name,
            &before.signature.to_string()[..16]
        ),
    });
    Ok(())
}

/// Who runs this command, as far as the machine knows.
pub(crate) fn user() -> String {
    let uid = nix::unistd::getuid();
    let name = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    // Root's sessions often belong to a person.
    match (name, variable("SUDO_USER").filter(|_| uid.is_root())) {
        (_, Some(person)) => person,
        (Some(name), None) => name,
        (None, None) => uid.to_string(),
    }
}
