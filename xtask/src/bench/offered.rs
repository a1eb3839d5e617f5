//! An environment that is there, from the command that offers it to the one that takes it away. It measures that much and
//! nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::contenders::Contender;
use super::timing;
use super::world::{Subject, World, clear};

/// How it is offered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// As one makes an environment.
    Made,
    /// As its files are measured.
    Standing,
}

/// An environment at a directory; it is taken away with this value.
pub(super) struct Offered<'a> {
    world: &'a World,
    contender: &'a dyn Contender,
    pub(super) at: PathBuf,
    how: How,
    /// From starting the first command until it can be used.
    pub(super) took: Duration,
    is_there: bool,
}

impl<'a> Offered<'a> {
    /// Makes the directory and has the environment there.
    ///
    /// # Errors
    /// When a command fails, or the environment is not there afterwards.
    pub(super) fn new(
        world: &'a World,
        contender: &'a dyn Contender,
        subject: &Subject,
        at: &Path,
        how: How,
    ) -> Result<Self> {
        timing::unmount_below(at)?;
        clear(at)?;
        fs::create_dir_all(at)?;
        contender.claim(at)?;
        let mut commands = match how {
            How::Made => contender.offer(world, subject, at)?,
            How::Standing => contender.stand(world, subject, at)?,
        };
        let mut offered = Self {
            world,
            contender,
            at: at.to_path_buf(),
            how,
            took: Duration::ZERO,
            is_there: true,
        };
        offered.took = run(&mut commands, how == How::Made && contender.prints_seconds())?;
        Ok(offered)
    }

    /// Asks for the file that must be there.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn probe(&self, subject: &Subject) -> Result<()> {
        let probe = self.at.join(subject.probe);
        fs::metadata(&probe).with_context(|| format!("the environment is not there: no {}", probe.display()))?;
        Ok(())
    }

    /// Takes it away, and returns how long that took.
    ///
    /// # Errors
    /// When a command fails.
    pub(super) fn retire(mut self) -> Result<Duration> {
        let mut commands = match self.how {
            How::Made => self.contender.retire(self.world, &self.at),
            How::Standing => self.contender.unstand(self.world, &self.at),
        };
        let took = timing::run(&mut commands)?;
        self.is_there = false;
        Ok(took)
    }
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        if self.is_there {
            // After a failure: what cannot be taken away properly is taken out of sight.
            let mut commands = match self.how {
                How::Made => self.contender.retire(self.world, &self.at),
                How::Standing => self.contender.unstand(self.world, &self.at),
            };
            if timing::run(&mut commands).is_err()
                && let Err(error) = timing::unmount_below(&self.at)
            {
                crate::sh::say(&format!("{} is still mounted: {error:#}", self.at.display()));
            }
        }
    }
}

fn run(commands: &mut [Command], last_prints_seconds: bool) -> Result<Duration> {
    match commands {
        [before @ .., last] if last_prints_seconds => Ok(timing::run(before)? + timing::printed_seconds(last)?),
        commands => timing::run(commands),
    }
}
