//! What a person is told when a library gives up because the machine has run out of something.

use crate::error::CliError;
use crate::shortage;

/// From here on that ends the program as any other failure does. Tokio and Rayon panic where no thread can be started.
pub(crate) fn tell_of_shortages() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let told = panic.payload_as_str().unwrap_or_default();
        match shortage::remedy_of_panic(told) {
            None => usual(panic),
            Some(help) => {
                CliError::new("cannot go on").because(told).help(help).report();
                std::process::exit(1);
            }
        }
    }));
}
