//! Dead letters: messages that a worker refused, or that the broker delivered too often. The rows say what becomes of them.

use broker::{Broker, DeadLetter};
use proto::message::BatchMessage;
use service::names;
use state::{State, StateError};

/// Dead letters taken at once: each costs a round trip to the broker. What is left waits for the next time.
const AT_ONCE: usize = 100;

/// Takes dead letters away. Where the row still waits for a worker, it counts as unpublished from now on, and its driver
/// publishes it again; the others have served their purpose. If this process dies after it has taken them, rows without a
/// message are found when their queue is empty.
pub(super) async fn reconcile(state: &State, broker: &dyn Broker) -> Result<(), StateError> {
    let letters = match broker.take_dead_letters(AT_ONCE).await {
        Ok(letters) => letters,
        Err(error) => {
            tracing::warn!(code = error.code(), %error, "dead letters cannot be read");
            return Ok(());
        }
    };
    if letters.is_empty() {
        return Ok(());
    }
    let messages = readable(&letters);
    let waiting = state.forget_messages(&messages).await?;
    let unreadable = letters.len() - messages.len();
    let dropped = messages.len().saturating_sub(waiting);
    for (outcome, count) in [
        ("republished", waiting),
        ("dropped", dropped),
        ("unreadable", unreadable),
    ] {
        metrics::counter!(names::DEAD_LETTERS, "outcome" => outcome).increment(count as u64);
    }
    tracing::warn!(
        code = "C2S-3003",
        republished = waiting,
        dropped,
        unreadable,
        "took dead letters away"
    );
    Ok(())
}

/// Letters that are batch messages.
fn readable(letters: &[DeadLetter]) -> Vec<BatchMessage> {
    let messages = letters.iter().map(|letter| BatchMessage::decode(&letter.payload));
    messages.filter_map(Result::ok).collect()
}
