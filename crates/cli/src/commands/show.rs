//! `envfs show`: what an environment holds, where it comes from, and what it cost.

use std::process::ExitCode;

use envfs_store::Store;
use envfs_store::environment::{Environment, Package};
use envfs_store::tree::NodeId;
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::known;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// A signature, a name, a lock file or an environment.yml
    #[arg(value_name = "ENV")]
    environment: String,
}

#[derive(Serialize)]
struct Shown {
    signature: String,
    subdir: String,
    base: Option<String>,
    tree: String,
    tree_bytes: u64,
    files: u64,
    file_bytes: u64,
    added_objects: u64,
    added_bytes: u64,
    added_inodes: u64,
    created_unix_s: u64,
    longest_mount_path_bytes: Option<usize>,
    variables: std::collections::BTreeMap<String, String>,
    packages: Vec<ShownPackage>,
}

#[derive(Serialize)]
struct ShownPackage {
    #[serde(flatten)]
    package: Package,
    inherited: bool,
}

pub(crate) fn execute(context: &Context, args: &ShowArgs) -> Result<ExitCode, CliError> {
    let environment = known::environment(context, &args.environment)?;
    let shown = Shown::of(&context.store()?, &environment)?;
    if context.json {
        context.print_json(&shown)?;
    } else {
        shown.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Shown {
    fn of(store: &Store, environment: &Environment) -> Result<Self, CliError> {
        let tree = store.tree(&environment.tree)?;
        let (files, file_bytes) = tree.contents()?;
        let mut packages: Vec<ShownPackage> = environment
            .all_packages(store)?
            .into_iter()
            .map(|package| ShownPackage {
                inherited: !environment.packages.contains(&package),
                package,
            })
            .collect();
        packages.sort_by(|a, b| a.package.name.cmp(&b.package.name));
        Ok(Self {
            signature: environment.signature.to_string(),
            subdir: environment.subdir.clone(),
            base: environment.base.map(|base| base.to_string()),
            tree: environment.tree.to_string(),
            tree_bytes: tree.file_bytes(),
            files,
            file_bytes,
            added_objects: environment.added.objects,
            added_bytes: environment.added.bytes,
            added_inodes: environment.added.inodes,
            created_unix_s: environment.created_unix_s,
            longest_mount_path_bytes: tree.max_prefix().map(|(bytes, _): (usize, NodeId)| bytes),
            variables: environment.variables.clone(),
            packages,
        })
    }

    fn print(&self) -> Result<(), CliError> {
        let inherited = self.packages.iter().filter(|package| package.inherited).count();
        let packages = output::count(self.packages.len() as u64, "package");
        output::line(&format!("signature  {}", self.signature))?;
        output::line(&format!("platform   {}", self.subdir))?;
        if let Some(base) = &self.base {
            output::line(&format!("base       {base} ({inherited} of {packages})"))?;
        }
        output::line(&format!(
            "holds      {packages}, {} files, {}",
            self.files,
            output::bytes(self.file_bytes)
        ))?;
        output::line(&format!(
            "added      {} in {}, {} of that its tree",
            output::bytes(self.added_bytes),
            output::count(self.added_inodes, "inode"),
            output::bytes(self.tree_bytes),
        ))?;
        if let Some(bytes) = self.longest_mount_path_bytes {
            output::line(&format!("mounts at  paths of up to {bytes} bytes"))?;
        }
        for (name, value) in &self.variables {
            output::line(&format!("sets       {name}={value}"))?;
        }
        output::line("")?;
        let rows: Vec<Vec<String>> = self.packages.iter().map(ShownPackage::cells).collect();
        output::table(&["PACKAGE", "VERSION", "BUILD", "ARCHIVE", ""], &[3], &rows)
    }
}

impl ShownPackage {
    fn cells(&self) -> Vec<String> {
        vec![
            self.package.name.clone(),
            self.package.version.clone(),
            self.package.build.clone(),
            output::bytes(self.package.size_bytes),
            if self.inherited { "inherited" } else { "" }.to_owned(),
        ]
    }
}
