//! When certificates and lists end, and what is said about that: at a load, and once a day.

use skd_tls_protocol::Certificate;

use super::date::{self, DAY, date, days};

/// How long before its end a certificate is warned of, in seconds. Let's Encrypt's are renewed 30 days before.
const SOON: i64 = 21 * DAY;

/// What is to be said about a file, beside what ends: its path and a sentence.
pub(super) type Warning = (String, String);

/// What ends at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A certificate of a service.
    Certificate,
    /// The certificate of an authority that clients' certificates are from.
    Authority,
    /// A list of revoked certificates.
    List,
    /// An OCSP response.
    Response,
}

/// A file with something that ends.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) what: What,
    pub(super) service: String,
    pub(super) file: String,
    /// The names of a certificate of a service.
    pub(super) names: Vec<String>,
    /// Whose certificate it is, or list, for messages.
    pub(super) whose: String,
    /// From when on it is valid, in seconds since 1970.
    pub(super) from: i64,
    /// Until when.
    pub(super) until: i64,
}

/// All that ends of the settings that hold.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    pub(super) all: Vec<Watched>,
}

impl Watch {
    /// Looks at all of them again: the certificates of services, with a warning if there is one; of the other
    /// files only those with a warning, without names.
    pub fn look(&self) -> Vec<Certificate> {
        self.at(date::now())
    }

    fn at(&self, now: i64) -> Vec<Certificate> {
        let reports = self.all.iter().map(|it| it.report(now));
        reports.flatten().collect()
    }
}

impl Watched {
    /// Returns its report, if there is something to be reported.
    pub(super) fn report(&self, now: i64) -> Option<Certificate> {
        let warning = self.warning(now);
        (self.what == What::Certificate || warning.is_some()).then(|| Certificate {
            service: self.service.clone(),
            file: self.file.clone(),
            names: self.names.clone(),
            not_after: self.until,
            warning,
        })
    }

    fn warning(&self, now: i64) -> Option<String> {
        let (from, until) = (self.from, self.until);
        let whose = &self.whose;
        match self.what {
            What::Certificate if now > until => Some(format!(
                "it has ended on {}, {} ago: clients refuse it",
                date(until),
                days(until, now)
            )),
            What::Certificate if now < from => Some(format!(
                "it isn't valid before {}: clients refuse it until then, unless the clock is wrong",
                date(from)
            )),
            // Certificates that live for less than three months are renewed later.
            What::Certificate if until - now < SOON.min(until.saturating_sub(from) / 30 * 7) => {
                Some(format!(
                    "it ends in {}, on {}",
                    days(now, until),
                    date(until)
                ))
            }
            What::Authority if now > until => Some(format!(
                "the certificate of {whose} in it has ended on {}: certificates of clients from that authority \
                 are accepted all the same, as long as they are valid themselves",
                date(until)
            )),
            What::List if now > until => Some(format!(
                "the list of {whose} in it has ended on {}: clients with certificates from that authority are \
                 refused until there is a new one",
                date(until)
            )),
            What::Response if now > until => Some(format!(
                "the OCSP response has ended on {}: clients don't get it any more",
                date(until)
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn watched(what: What, from: i64, until: i64) -> Watched {
        Watched {
            what,
            service: "web".into(),
            file: "/etc/cert.pem".into(),
            names: vec!["a.example".into()],
            whose: "CN=Some".into(),
            from: NOW + from * DAY,
            until: NOW + until * DAY,
        }
    }

    fn warning(what: What, from: i64, until: i64) -> String {
        let it = watched(what, from, until);
        it.warning(NOW).unwrap_or_default()
    }

    #[test]
    fn certificates_are_warned_of_before_they_end_and_after() {
        use What::Certificate;
        assert_eq!(warning(Certificate, -60, 30), "");
        assert_eq!(warning(Certificate, -60, 22), "");
        assert_eq!(
            warning(Certificate, -300, 20),
            "it ends in 20 days, on 2027-02-04"
        );
        assert_eq!(
            warning(Certificate, -300, 1),
            "it ends in 1 day, on 2027-01-16"
        );
        assert_eq!(
            warning(Certificate, -300, 0),
            "it ends in less than a day, on 2027-01-15"
        );
        assert_eq!(
            warning(Certificate, -300, -2),
            "it has ended on 2027-01-13, 2 days ago: clients refuse it"
        );
        assert!(warning(Certificate, 1, 90).starts_with("it isn't valid before 2027-01-16"));
        // A certificate that lives for six days is renewed after four.
        assert_eq!(warning(Certificate, -3, 3), "");
        assert_eq!(
            warning(Certificate, -5, 1),
            "it ends in 1 day, on 2027-01-16"
        );
        assert_eq!(warning(Certificate, -30, 15), "");
    }

    #[test]
    fn other_files_are_reported_when_they_have_ended() {
        for what in [What::Authority, What::List, What::Response] {
            assert_eq!(warning(what, -30, 1), "");
            assert!(warning(what, -30, -1).contains("has ended on 2027-01-14"));
        }
        let watch = Watch {
            all: vec![
                watched(What::Certificate, -1, 90),
                watched(What::List, -1, 1),
                watched(What::List, -2, -1),
            ],
        };
        let reports = watch.at(NOW);
        assert_eq!(reports.len(), 2);
        assert_eq!(reports[0].names, ["a.example"]);
        assert_eq!(reports[0].warning, None);
        assert!(reports[1].warning.is_some());
    }
}
