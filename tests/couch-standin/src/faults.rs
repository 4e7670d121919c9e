//! Faults: rules that say which requests go wrong, how, and how often.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::requests::{Call, OpKind};

/// Which requests a rule is about; what is absent matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predicate {
    /// Kind of operation; absent, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<OpKind>,
    /// HTTP method in capitals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// A part of the path and query as they were sent, still percent-encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_contains: Option<String>,
    /// A part of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_contains: Option<String>,
}

impl Predicate {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Every request of one kind.
    pub fn op(op: OpKind) -> Self {
        Self {
            op: Some(op),
            ..Self::default()
        }
    }

    /// The same, only where the path and query contain a text.
    #[must_use]
    pub fn on(self, path_part: &str) -> Self {
        Self {
            path_contains: Some(path_part.to_owned()),
            ..self
        }
    }

    /// The same, only where the body contains a text.
    #[must_use]
    pub fn asking_for(self, body_part: &str) -> Self {
        Self {
            body_contains: Some(body_part.to_owned()),
            ..self
        }
    }

    fn matches(&self, call: &Call) -> bool {
        self.op.is_none_or(|op| op == call.op)
            && self.method.as_ref().is_none_or(|method| *method == call.method)
            && self
                .path_contains
                .as_ref()
                .is_none_or(|part| call.target.contains(part))
            && self.body_contains.as_ref().is_none_or(|part| call.body_contains(part))
    }
}

/// How many requests a rule spoils. In JSON a number, or `"always"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TimesText", into = "TimesText")]
pub enum Times {
    /// The first so many that match.
    Count(u32),
    /// All, until the rule is removed.
    Always,
}

impl Default for Times {
    fn default() -> Self {
        Self::Count(1)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TimesText {
    Count(u32),
    Word(String),
}

impl TryFrom<TimesText> for Times {
    type Error = &'static str;

    fn try_from(text: TimesText) -> Result<Self, Self::Error> {
        match text {
            TimesText::Count(count) => Ok(Self::Count(count)),
            TimesText::Word(word) if word == "always" => Ok(Self::Always),
            TimesText::Word(_) => Err("times is a number or \"always\""),
        }
    }
}

impl From<Times> for TimesText {
    fn from(times: Times) -> Self {
        match times {
            Times::Count(count) => Self::Count(count),
            Times::Always => Self::Word("always".to_owned()),
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Answer with this status and do nothing.
    Reject {
        /// HTTP status.
        status: u16,
        /// Seconds of the `Retry-After` header.
        #[serde(default)]
        retry_after: Option<u32>,
    },
    /// Do what was asked, then answer 500: the client cannot know.
    FailAfterWrite,
    /// Do not begin until the rule is released or removed.
    Hold,
    /// Do what was asked, and keep the answer until the rule is released or removed: it is out of date by then.
    HoldAnswer,
    /// Wait before beginning. Milliseconds in JSON.
    Slow(#[serde(with = "milliseconds")] Duration),
    /// Close the connection after so many bytes of the body.
    CutBody(usize),
    /// Close the connection without an answer.
    Refuse,
    /// Answer 200 with something that is not JSON.
    Junk,
}

mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        duration.as_millis().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// One rule. Of several that match a request, the oldest that is not used up applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Which requests.
    #[serde(rename = "match", default)]
    pub matches: Predicate,
    /// How many matching requests go through unharmed first.
    #[serde(default)]
    pub skip: u32,
    /// How many are then spoilt.
    #[serde(default)]
    pub times: Times,
    /// How.
    pub action: Action,
}

impl FaultRule {
    /// A rule that spoils the first matching request.
    pub fn once(matches: Predicate, action: Action) -> Self {
        Self {
            matches,
            skip: 0,
            times: Times::default(),
            action,
        }
    }

    /// A rule that spoils every matching request.
    pub fn always(matches: Predicate, action: Action) -> Self {
        Self {
            matches,
            skip: 0,
            times: Times::Always,
            action,
        }
    }

    /// The same rule for so many requests.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self {
            times: Times::Count(count),
            ..self
        }
    }

    /// The same rule after so many requests went through.
    #[must_use]
    pub fn after(self, skip: u32) -> Self {
        Self { skip, ..self }
    }
}

/// Names a rule that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(u64);

impl RuleId {
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// A rule and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct RuleState {
    /// Its name.
    pub id: RuleId,
    /// The rule.
    pub rule: FaultRule,
    /// How many requests it has spoilt.
    pub hits: u32,
}

#[derive(Debug)]
struct ActiveRule {
    id: RuleId,
    rule: FaultRule,
    seen: u32,
    taken: u32,
    hits: watch::Sender<u32>,
    released: watch::Sender<bool>,
}

impl ActiveRule {
    fn is_due(&self) -> bool {
        let is_left = match self.rule.times {
            Times::Count(count) => self.taken < count,
            Times::Always => true,
        };
        is_left && self.seen > self.rule.skip
    }
}

#[derive(Debug, Default)]
struct Rules {
    active: Vec<ActiveRule>,
    last_id: u64,
}

/// Programs the faults of a running server. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct FaultHandle(Arc<Mutex<Rules>>);

/// A fault that a request met.
pub(crate) struct Fault {
    pub(crate) action: Action,
    hits: watch::Sender<u32>,
    released: watch::Receiver<bool>,
}

impl Fault {
    /// The request stands before the rule.
    fn count(&self) {
        self.hits.send_modify(|hits| *hits += 1);
    }

    /// The answer is there, and is kept until the rule is released or removed. Only now the request counts as spoilt:
    /// who waits for that may change what was asked for.
    pub(crate) async fn keep_answer(self) {
        self.count();
        self.wait_for_release().await;
    }

    /// Waits until the rule is released or removed.
    pub(crate) async fn wait_for_release(mut self) {
        // An error means that the rule was removed, which releases too.
        let _ = self.released.wait_for(|released| *released).await;
    }
}

impl FaultHandle {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule; it applies at once.
    pub fn add(&self, rule: FaultRule) -> RuleId {
        let mut rules = self.rules();
        rules.last_id += 1;
        let id = RuleId(rules.last_id);
        rules.active.push(ActiveRule {
            id,
            rule,
            seen: 0,
            taken: 0,
            hits: watch::channel(0).0,
            released: watch::channel(false).0,
        });
        id
    }

    /// Lets go what a `Hold` rule holds, now and later; the rule stays. False if there is no such rule.
    pub fn release(&self, id: RuleId) -> bool {
        let rules = self.rules();
        let rule = rules.active.iter().find(|rule| rule.id == id);
        if let Some(rule) = rule {
            rule.released.send_replace(true);
        }
        rule.is_some()
    }

    /// Removes a rule and lets go what it holds. False if there is no such rule.
    pub fn remove(&self, id: RuleId) -> bool {
        let mut rules = self.rules();
        let before = rules.active.len();
        rules.active.retain(|rule| rule.id != id);
        rules.active.len() < before
    }

    /// Removes all rules and lets go what they hold.
    pub fn clear(&self) {
        self.rules().active.clear();
    }

    /// The rules that were added and not removed, oldest first, used up or not.
    pub fn list(&self) -> Vec<RuleState> {
        let rules = self.rules();
        let state = |rule: &ActiveRule| RuleState {
            id: rule.id,
            rule: rule.rule.clone(),
            hits: *rule.hits.borrow(),
        };
        rules.active.iter().map(state).collect()
    }

    /// How many requests a rule has spoilt; 0 for a rule that is gone.
    pub fn hits(&self, id: RuleId) -> u32 {
        self.rules()
            .active
            .iter()
            .find(|rule| rule.id == id)
            .map_or(0, |rule| *rule.hits.borrow())
    }

    /// Waits until a rule has met so many requests: for a `Hold`, until they stand before it, for a `HoldAnswer`, until
    /// the answers are there. False if the rule is
    /// gone before that.
    pub async fn reached(&self, id: RuleId, hits: u32) -> bool {
        let receiver = self
            .rules()
            .active
            .iter()
            .find(|rule| rule.id == id)
            .map(|rule| rule.hits.subscribe());
        match receiver {
            Some(mut receiver) => receiver.wait_for(|seen| *seen >= hits).await.is_ok(),
            None => false,
        }
    }

    /// Whether a rule wants to see bodies.
    pub(crate) fn wants_bodies(&self) -> bool {
        self.rules()
            .active
            .iter()
            .any(|rule| rule.rule.matches.body_contains.is_some())
    }

    /// The fault that this request meets, if any; counts it.
    pub(crate) fn meet(&self, call: &Call) -> Option<Fault> {
        let mut rules = self.rules();
        for rule in rules.active.iter_mut().filter(|rule| rule.rule.matches.matches(call)) {
            rule.seen = rule.seen.saturating_add(1);
            if rule.is_due() {
                rule.taken += 1;
                let fault = Fault {
                    action: rule.rule.action,
                    hits: rule.hits.clone(),
                    released: rule.released.subscribe(),
                };
                if fault.action != Action::HoldAnswer {
                    fault.count();
                }
                return Some(fault);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn call(method: &str, target: &str) -> Call {
        Call::new(method, target)
    }

    #[test]
    fn rules_are_spent_in_order() {
        let faults = FaultHandle::default();
        let first = faults.add(
            FaultRule::once(Predicate::op(OpKind::BulkGet), Action::Refuse)
                .after(1)
                .times(2),
        );
        let second = faults.add(FaultRule::always(Predicate::op(OpKind::BulkGet), Action::Junk));
        let seen: Vec<Action> = (0..5)
            .map(|_| faults.meet(&call("POST", "/db/_bulk_get")).unwrap().action)
            .collect();
        assert_eq!(
            seen,
            [Action::Junk, Action::Refuse, Action::Refuse, Action::Junk, Action::Junk]
        );
        assert_eq!((faults.hits(first), faults.hits(second)), (2, 3));
        assert!(faults.meet(&call("GET", "/db/_changes")).is_none());
        assert!(faults.remove(second) && !faults.remove(second));
        assert!(faults.meet(&call("POST", "/db/_bulk_get")).is_none());
    }

    #[test]
    fn predicates_narrow() {
        let matches = |predicate: &Predicate, method, target| predicate.matches(&call(method, target));
        let put = Predicate::op(OpKind::Put).on("commcarehq__domains");
        assert!(matches(&put, "PUT", "/commcarehq__domains/x"));
        assert!(!matches(&put, "PUT", "/commcarehq/x"));
        assert!(!matches(&put, "GET", "/commcarehq__domains/x"));
        assert!(matches(&Predicate::any(), "GET", "/"));
        let head = Predicate {
            method: Some("HEAD".to_owned()),
            ..Predicate::any()
        };
        assert!(matches(&head, "HEAD", "/db") && !matches(&head, "GET", "/db"));
        let asking = Predicate::op(OpKind::BulkGet).asking_for("\"form-1\"");
        let mut call = call("POST", "/db/_bulk_get");
        assert!(!asking.matches(&call));
        call.body = Some(r#"{"docs":[{"id":"form-12"}]}"#.into());
        assert!(!asking.matches(&call));
        call.body = Some(r#"{"docs":[{"id":"form-1"}]}"#.into());
        assert!(asking.matches(&call));
    }

    #[test]
    fn rules_have_a_json_form() {
        let rule: FaultRule = serde_json::from_value(json!({
            "match": {"op": "view_page", "path_contains": "limit"},
            "times": "always",
            "action": {"reject": {"status": 429, "retry_after": 2}},
        }))
        .unwrap();
        let reject = Action::Reject {
            status: 429,
            retry_after: Some(2),
        };
        assert_eq!(
            rule,
            FaultRule::always(Predicate::op(OpKind::ViewPage).on("limit"), reject)
        );
        let actions = [
            (json!("fail_after_write"), Action::FailAfterWrite),
            (json!("hold"), Action::Hold),
            (json!("hold_answer"), Action::HoldAnswer),
            (json!({"slow": 250}), Action::Slow(Duration::from_millis(250))),
            (json!({"cut_body": 10}), Action::CutBody(10)),
            (json!("refuse"), Action::Refuse),
            (json!("junk"), Action::Junk),
        ];
        for (text, action) in actions {
            let rule: FaultRule = serde_json::from_value(json!({"action": text, "times": 3})).unwrap();
            assert_eq!(rule, FaultRule::once(Predicate::any(), action).times(3));
            assert_eq!(serde_json::to_value(&rule).unwrap()["action"], text);
        }
        assert!(serde_json::from_value::<FaultRule>(json!({"action": "hold", "times": "never"})).is_err());
        assert!(serde_json::from_value::<FaultRule>(json!({"action": "hold", "matches": {}})).is_err());
    }
}
