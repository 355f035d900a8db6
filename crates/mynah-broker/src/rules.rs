//! Ordered rules: who may do what to which address. The first that matches decides; if there are rules, what none of them
//! matches is refused.
//!
//! Addresses are written as MQTT writes them: topics and topic filters as they are, `$queue/NAME`, `$exchange/NAME/KEY`,
//! `$P2P/CLIENT`. In a pattern `+` is one level, `#` the rest, and a lone `#` is everything, `$` addresses too. A level `%u` is
//! the user's name and `%c` the client identifier, compared literally: a client called `+` gets no wildcard by that, and one
//! whose name has a `/` never matches.
//!
//! Never: decides who somebody is.

use std::sync::Arc;

use mynah_core::{AddressRef, words};

use crate::virtual_host::{CLIENT_EXCHANGE, TOPIC_EXCHANGE};

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The address is the client identifier.
    Connect,
    Publish,
    /// To ask for a filter or a queue.
    Subscribe,
    /// To be sent a message of this topic.
    Deliver,
}

/// Who wants to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who<'a> {
    pub user: &'a str,
    pub client: &'a str,
}

/// The same, to keep with what belongs to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: Arc<str>,
    pub client: Arc<str>,
}

impl Identity {
    #[must_use]
    pub fn who(&self) -> Who<'_> {
        Who { user: &self.user, client: &self.client }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    pub actions: Vec<Action>,
    /// Empty: everybody.
    pub users: Vec<String>,
    pub to: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `who` may do this. `address` may be a filter.
    #[must_use]
    pub fn allow(&self, who: Who<'_>, action: Action, address: AddressRef<'_>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        self.first(who, action, address).unwrap_or(false)
    }

    /// Whether somebody of this name may connect as this client: only rules that speak of connecting restrict it.
    #[must_use]
    pub fn allow_connect(&self, who: Who<'_>) -> bool {
        let restricted = self.0.iter().any(|rule| rule.actions.contains(&Action::Connect));
        !restricted || self.first(who, Action::Connect, AddressRef::Topic(who.client)).unwrap_or(false)
    }

    /// Whether some of what a filter brings is refused to `who`: where deliveries are not looked at one by one.
    #[must_use]
    pub fn deny_part_of(&self, who: Who<'_>, filter: &str) -> bool {
        self.of(who, Action::Deliver)
            .take_while(|rule| !rule.allow || !rule.matches(who, AddressRef::Topic(filter)))
            .any(|rule| !rule.allow && rule.to.iter().any(|pattern| overlap(pattern, who, filter)))
    }

    fn of<'a>(&'a self, who: Who<'a>, action: Action) -> impl Iterator<Item = &'a Rule> {
        self.0.iter().filter(move |rule| {
            let named = rule.users.is_empty() || rule.users.iter().any(|user| user == who.user);
            named && rule.actions.contains(&action)
        })
    }

    fn first(&self, who: Who<'_>, action: Action, address: AddressRef<'_>) -> Option<bool> {
        // What goes through the topic exchange is a topic.
        let dotted;
        let address = match address {
            AddressRef::Exchange { name: TOPIC_EXCHANGE, key } => {
                dotted = words::core_from_dotted(key);
                AddressRef::Topic(&dotted)
            }
            AddressRef::Exchange { name: "", key } => AddressRef::Queue(key),
            AddressRef::Exchange { name: CLIENT_EXCHANGE, key } => AddressRef::Client(key),
            AddressRef::Topic(_)
            | AddressRef::Queue(_)
            | AddressRef::Exchange { .. }
            | AddressRef::Client(_) => address,
        };
        self.of(who, action).find(|rule| rule.matches(who, address)).map(|rule| rule.allow)
    }
}

impl Rule {
    fn matches(&self, who: Who<'_>, address: AddressRef<'_>) -> bool {
        let (prefix, name, rest) = match address {
            AddressRef::Topic(topic) => (None, topic, None),
            AddressRef::Queue(name) => (Some("$queue"), name, None),
            AddressRef::Client(id) => (Some("$P2P"), id, None),
            AddressRef::Exchange { name, key } => (Some("$exchange"), name, Some(key)),
        };
        self.to.iter().any(|pattern| {
            let levels = name.split('/').chain(rest.into_iter().flat_map(|rest| rest.split('/')));
            covers(pattern, who, prefix.into_iter().chain(levels))
        })
    }
}

/// Whether everything that `levels` stands for is in the pattern.
fn covers<'a>(pattern: &str, who: Who<'_>, mut levels: impl Iterator<Item = &'a str>) -> bool {
    if pattern == "#" {
        return true;
    }
    let mut patterns = pattern.split('/');
    loop {
        match (patterns.next(), levels.next()) {
            (None, None) => return true,
            // `a/#` has `a` in it, too.
            (Some("#"), _) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(wanted), Some(level)) if meaning(wanted, who) == level => {}
            _ => return false,
        }
    }
}

/// Whether some topic is in both.
fn overlap(pattern: &str, who: Who<'_>, filter: &str) -> bool {
    let (mut patterns, mut levels) = (pattern.split('/'), filter.split('/'));
    loop {
        match (patterns.next(), levels.next()) {
            (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(wanted), Some(level)) if meaning(wanted, who) == level => {}
            _ => return false,
        }
    }
}

fn meaning<'a>(level: &'a str, who: Who<'a>) -> &'a str {
    match level {
        "%u" => who.user,
        "%c" => who.client,
        level => level,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: Who<'_> = Who { user: "app", client: "c1" };

    fn rule(allow: bool, actions: &[Action], users: &[&str], to: &[&str]) -> Rule {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        Rule { allow, actions: actions.to_vec(), users: owned(users), to: owned(to) }
    }

    fn may(to: &str, who: Who<'_>, address: AddressRef<'_>) -> bool {
        Rules::new(vec![rule(true, &[Action::Publish], &[], &[to])]).allow(who, Action::Publish, address)
    }

    #[test]
    fn patterns() {
        let topic = AddressRef::Topic;
        for (to, address, expected) in [
            ("a/b", topic("a/b"), true),
            ("a/b", topic("a/b/c"), false),
            ("a/+", topic("a/b"), true),
            ("a/+", topic("a"), false),
            ("a/#", topic("a"), true),
            ("a/#", topic("a/b/c"), true),
            ("#", topic("$SYS/x"), true),
            ("#", AddressRef::Queue("q"), true),
            ("a/#", AddressRef::Queue("a"), false),
            ("$queue/+", AddressRef::Queue("q"), true),
            ("$queue/q", AddressRef::Exchange { name: "", key: "q" }, true),
            ("$exchange/e/#", AddressRef::Exchange { name: "e", key: "k.l" }, true),
            ("a/b", AddressRef::Exchange { name: "amq.topic", key: "a.b" }, true),
            ("$P2P/+", AddressRef::Client("x"), true),
            // Filters: all of it must be covered.
            ("a/+", topic("a/+"), true),
            ("a/+", topic("a/#"), false),
            ("a/#", topic("a/+/c"), true),
            ("a/b", topic("a/+"), false),
            ("+/+", topic("#"), false),
        ] {
            assert_eq!(may(to, APP, address), expected, "{to} {address}");
        }
    }

    #[test]
    fn names_are_literal() {
        assert!(may("dev/%c/+", APP, AddressRef::Topic("dev/c1/temp")));
        assert!(!may("dev/%c/+", APP, AddressRef::Topic("dev/c2/temp")));
        assert!(may("%u", APP, AddressRef::Topic("app")));
        let sly = Who { user: "app", client: "+" };
        assert!(!may("dev/%c/x", sly, AddressRef::Topic("dev/c1/x")));
        let slashed = Who { user: "app", client: "a/b" };
        assert!(!may("dev/%c", slashed, AddressRef::Topic("dev/a/b")));
    }

    #[test]
    fn the_first_that_matches_decides() {
        let rules = Rules::new(vec![
            rule(false, &[Action::Publish, Action::Deliver], &["app"], &["secret/#"]),
            rule(true, &[Action::Publish, Action::Subscribe, Action::Deliver], &[], &["#"]),
        ]);
        let other = Who { user: "other", client: "c" };
        assert!(!rules.allow(APP, Action::Publish, AddressRef::Topic("secret/x")));
        assert!(rules.allow(other, Action::Publish, AddressRef::Topic("secret/x")));
        assert!(rules.allow(APP, Action::Subscribe, AddressRef::Topic("#")));
        assert!(rules.deny_part_of(APP, "#") && rules.deny_part_of(APP, "secret/+/x"));
        assert!(!rules.deny_part_of(APP, "public/#") && !rules.deny_part_of(other, "#"));
        assert!(rules.allow_connect(APP));
        assert!(Rules::default().allow(APP, Action::Publish, AddressRef::Topic("x")));
    }

    #[test]
    fn connecting_is_restricted_by_rules_about_it() {
        let rules = Rules::new(vec![rule(true, &[Action::Connect], &[], &["%u", "shared-client"])]);
        let who = |client| Who { user: "app", client };
        assert!(rules.allow_connect(who("app")) && rules.allow_connect(who("shared-client")));
        assert!(!rules.allow_connect(who("other")));
        // And nothing else is allowed: there are rules.
        assert!(!rules.allow(who("app"), Action::Publish, AddressRef::Topic("x")));
    }
}
