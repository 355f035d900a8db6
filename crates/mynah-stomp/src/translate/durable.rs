//! The names of durable subscriptions, from the headers of three brokers.
//!
//! | headers | name |
//! |---|---|
//! | `x-queue-name` with `durable:true` | as given (RabbitMQ) |
//! | `durable:true` or `persistent:true`, and `id` | made of `client-id`, `id` and destination (RabbitMQ) |
//! | `activemq.subscriptionName`, `durable-subscription-name`, `durable-subscriber-name` | `<client-id>.<name>` (ActiveMQ, Artemis) |

use mynah_core::limits::SHORT_NAME_BYTES_MAX;

use super::destination::Destination;
use crate::codec::Frame;
use crate::reason::Fault;

const NAME_HEADERS: [&str; 3] =
    ["activemq.subscriptionName", "durable-subscription-name", "durable-subscriber-name"];

/// Whether SUBSCRIBE or UNSUBSCRIBE speaks of a durable subscription.
pub(crate) fn is_durable(frame: &Frame<'_>) -> bool {
    frame.is_true("durable")
        || frame.is_true("persistent")
        || NAME_HEADERS.iter().any(|name| frame.get(name).is_some())
}

/// The queue that holds it. The same headers lead to the same queue on each connection.
///
/// # Errors
/// Something it is made of is missing, or it gets longer than AMQP 0-9-1 can name.
pub(crate) fn durable_name(
    frame: &Frame<'_>,
    client_id: &str,
    id: Option<&str>,
    destination: &str,
) -> Result<String, Fault> {
    let name = if let Some(name) = frame.get("x-queue-name").filter(|name| !name.is_empty()) {
        name.into_owned()
    } else if let Some(name) = NAME_HEADERS.iter().find_map(|header| frame.get(header)) {
        if client_id.is_empty() {
            let hint = "a durable subscription of that name belongs to a client; name it in CONNECT";
            return Err(Fault::missing("CONNECT", "client-id", hint));
        }
        format!("{}.{}", part(client_id), part(&name))
    } else {
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            let hint = "a durable subscription is found again by it";
            return Err(Fault::missing(frame.command.text(), "id", hint));
        };
        let topic = topic(destination, frame)?;
        if client_id.is_empty() {
            format!("stomp-subscription-{}@{topic}", part(id))
        } else {
            format!("stomp-subscription-{}.{}@{topic}", part(client_id), part(id))
        }
    };
    if name.len() > SHORT_NAME_BYTES_MAX {
        let text = format!(
            "The durable subscription would be the queue '{name}', longer than {SHORT_NAME_BYTES_MAX} bytes. Use \
             a shorter id, or name the queue with x-queue-name"
        );
        return Err(Fault::limit("name too long", text));
    }
    Ok(name)
}

/// Both spellings of a topic are one subscription.
fn topic(destination: &str, frame: &Frame<'_>) -> Result<String, Fault> {
    if destination.is_empty() {
        return Err(Fault::missing(frame.command.text(), "destination", "that of the durable subscription"));
    }
    match Destination::parse(destination, usize::MAX)? {
        Destination::Topic(words) => Ok(super::filter(words)?.to_string()),
        Destination::Exchange { name, key } => Ok(format!("/{name}/{key}")),
        Destination::Queue(_)
        | Destination::ExistingQueue(_)
        | Destination::ReplyQueue(_)
        | Destination::TempQueue(_)
        | Destination::Client(_) => Ok(destination.to_owned()),
    }
}

/// The separators cannot stand in a part, so that different parts never make the same name.
fn part(text: &str) -> String {
    text.replace('%', "%25").replace('.', "%2E").replace('@', "%40")
}
