//! `--explain`: the rule that decides about a client.

use std::fmt::{self, Write};
use std::path::Path;

use crate::config::{
    Admission, Config, DatagramMode, Mode, Nat64, Rate, Rule, Service, Style, Who, quoted,
};
use crate::error::Error;
use crate::report;
use crate::serve::{Client, Rules};
use crate::setup::RuleFiles;

/// Prints the rule that matches a client, with its limits and variables.
pub fn explain(config: &Config, who: &Who) -> Result<u8, Error> {
    report::set_verbosity(config.daemon.verbosity);
    for service in &config.services {
        let answer = match service.text {
            None => answer(service, who)?,
            Some(_) => {
                let decides = match is_admitted(service) {
                    true => answer(service, who).map_err(|error| error.about(&service.label()))?,
                    false => {
                        format!("client: {who}\nverdict: none, PROG takes its clients itself\n")
                    }
                };
                format!("service: {}\n{decides}", service.name)
            }
        };
        report::answer(&answer)
            .map_err(|reason| Error::start("can't write to standard output", reason))?;
    }
    Ok(0)
}

/// Whether skd decides about clients of the service, on one of its listeners at least.
fn is_admitted(service: &Service) -> bool {
    let is_stream = |style: Option<Style>| style.is_none_or(Style::has_connections);
    let mut styles = service.listeners.iter().map(|it| it.endpoint.style());
    let accepts = service.mode == Mode::PerConnection && styles.any(is_stream);
    accepts || service.datagrams != DatagramMode::Wait
}

fn answer(service: &Service, who: &Who) -> Result<String, Error> {
    let (files, list) = RuleFiles::open_and_read(service)?.unzip();
    let list = list.unwrap_or_default();
    let rules = Rules::new(&list, &[].into());
    let decision = rules.decide(client(who, &service.admission.nat64));
    let rule = decision.index.and_then(|index| list.get(index));
    let rule = rule.map(|(rule, _)| rule);
    let location = files
        .as_ref()
        .zip(rule)
        .map(|(files, rule)| files.location(rule).to_string())
        .unwrap_or_default();
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = describe(
        &mut text,
        &service.admission,
        who,
        decision.allow,
        rule,
        &location,
    );
    Ok(text)
}

fn client(who: &Who, translators: &[Nat64]) -> Client {
    match who {
        Who::Net(prefix) => Client::at(prefix.range().0, translators),
        Who::Uid(uid) => Client::user(*uid),
        Who::Gid(gid) => Client::group(*gid),
        Who::Unix => None.into(),
        Who::All | Who::File(_) => Client::Unknown,
    }
}

fn describe(
    text: &mut String,
    admission: &Admission,
    who: &Who,
    allow: bool,
    rule: Option<&Rule>,
    location: &str,
) -> fmt::Result {
    let verdict = if allow { "allow" } else { "deny" };
    writeln!(text, "client: {who}\nverdict: {verdict}")?;
    match rule {
        Some(rule) => writeln!(text, "rule: {rule}\nfrom: {location}")?,
        None if allow => writeln!(text, "rule: none fits, and there is none that allows")?,
        None => writeln!(
            text,
            "rule: none fits, and there are some that allow others"
        )?,
    }
    if allow {
        let own = rule.and_then(|rule| rule.max);
        limit(
            text,
            "max",
            own,
            "--max-per-source",
            admission.max_per_source,
        )?;
        let own: Option<Rate> = rule.and_then(|rule| rule.rate);
        limit(
            text,
            "rate",
            own,
            "--rate-per-source",
            admission.rate_per_source,
        )?;
        for (name, value) in rule.map_or(&[][..], |rule| &rule.environment) {
            let value = quoted(value.as_encoded_bytes());
            writeln!(text, "env: {}={value}", Path::new(name).display())?;
        }
    }
    match rule.and_then(|rule| rule.message.as_ref()) {
        Some(message) => writeln!(text, "message: {}", quoted(message)),
        None => Ok(()),
    }
}

/// Writes a limit for each source: that of the rule, or else that of the option.
fn limit<T: fmt::Display>(
    text: &mut String,
    what: &str,
    own: Option<T>,
    option: &str,
    common: Option<T>,
) -> fmt::Result {
    match (own, common) {
        (Some(own), _) => writeln!(text, "{what}: {own}"),
        (None, Some(common)) => writeln!(text, "{what}: {common} ({option})"),
        (None, None) => Ok(()),
    }
}
