//! Who sends to whom: the shapes of traffic, turned into destinations for each connection.
//!
//! Names have a fixed width and carry the number of the run, so that frames are equally long and runs never meet.
//! Never: a connection.

use crate::options::{Pattern, Protocol, Spec};

/// One run's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The destinations of each publisher, used in turn.
    pub publishers: Vec<Vec<String>>,
    pub subscribers: Vec<Reader>,
    /// How many subscribers get each message.
    pub copies: u64,
}

/// One subscriber: where it reads and whom it hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    pub source: String,
    /// Further filters, MQTT only.
    pub more: Vec<String>,
    /// First publisher heard and how many; none when it shares a queue, or the topics of a publisher, with others.
    pub hears: Option<(u32, u32)>,
}

impl Reader {
    fn of(source: String, hears: Option<(u32, u32)>) -> Self {
        Self { source, more: Vec::new(), hears }
    }
}

impl Plan {
    pub(crate) fn new(spec: &Spec) -> Self {
        let (publishers, subscribers) = (spec.publishers, spec.subscribers);
        let target = |index| destination(spec, index, false);
        let source = |index| destination(spec, index, true);
        let whole = |index, first, count| Reader::of(source(index), Some((first, count)));
        match spec.pattern {
            Pattern::Pairs => Self {
                publishers: (0..publishers).map(|index| vec![target(index)]).collect(),
                subscribers: (0..publishers).map(|index| whole(index, index, 1)).collect(),
                copies: 1,
            },
            Pattern::Scattered => Self {
                publishers: (0..publishers).map(|_| (0..subscribers).map(target).collect()).collect(),
                subscribers: (0..subscribers).map(|index| whole(index, 0, publishers)).collect(),
                copies: 1,
            },
            Pattern::FanIn => Self {
                publishers: (0..publishers).map(|_| vec![target(0)]).collect(),
                subscribers: vec![whole(0, 0, publishers)],
                copies: 1,
            },
            Pattern::FanOut => Self {
                publishers: (0..publishers).map(|_| vec![target(0)]).collect(),
                subscribers: (0..subscribers).map(|_| whole(0, 0, publishers)).collect(),
                copies: u64::from(subscribers),
            },
            Pattern::Crowd => crowd(spec),
            Pattern::Retain | Pattern::Replay => Self::default(),
            Pattern::Store => Self {
                publishers: (0..publishers).map(|_| vec![target(0)]).collect(),
                subscribers: vec![Reader::of(source(0), None)],
                copies: 1,
            },
            Pattern::Queue => {
                let queues = spec.queues.clamp(1, publishers.min(subscribers).max(1));
                let alone = queues == subscribers;
                let reader =
                    |index: u32| Reader::of(source(index % queues), alone.then_some((0, publishers)));
                Self {
                    publishers: (0..publishers).map(|index| vec![target(index % queues)]).collect(),
                    subscribers: (0..subscribers).map(reader).collect(),
                    copies: 1,
                }
            }
        }
    }
}

/// Topics that each publisher of a crowd goes round.
const TOPICS: u64 = 2_000;

/// Subscriptions to topics of their own, one in ten with a wildcard, and publishers that go round random ones of them.
fn crowd(spec: &Spec) -> Plan {
    let topic = |index: u64| format!("bench/{:08x}/{:03}/{index:07}/v", spec.run, index % 1_000);
    let filter = |index: u64| match index % 30 {
        0 => format!("bench/{:08x}/{:03}/{index:07}/+", spec.run, index % 1_000),
        10 => format!("bench/{:08x}/+/{index:07}/v", spec.run),
        20 => format!("bench/{:08x}/{:03}/{index:07}/#", spec.run, index % 1_000),
        _ => topic(index),
    };
    let (all, readers) = (u64::from(spec.topics.max(1)), u64::from(spec.subscribers));
    let reader = |reader: u64| {
        let mut filters = (reader..all).step_by(usize::try_from(readers).unwrap_or(1)).map(filter);
        let mut it = Reader::of(filters.next().unwrap_or_default(), None);
        it.more = filters.collect();
        it
    };
    let mut state = u64::from(spec.run) | 1;
    let mut any = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        topic((state >> 24) % all)
    };
    Plan {
        publishers: (0..spec.publishers).map(|_| (0..TOPICS).map(|_| any()).collect()).collect(),
        subscribers: (0..readers).map(reader).collect(),
        copies: 1,
    }
}

/// The name of destination `index` as its protocol writes it.
fn destination(spec: &Spec, index: u32, reading: bool) -> String {
    let queue = matches!(spec.pattern, Pattern::Queue | Pattern::Store);
    let (slashes, dots) =
        (format!("bench/{:08x}/{index:05}", spec.run), format!("bench.{:08x}.{index:05}", spec.run));
    if let Some(prefix) = &spec.prefix {
        return format!("{prefix}{dots}");
    }
    match (spec.protocol, queue) {
        // Competing consumers on a topic: a shared subscription.
        (Protocol::Mqtt | Protocol::Mqtt5, true) if reading => format!("$share/bench/{slashes}"),
        (Protocol::Mqtt | Protocol::Mqtt5, _) => slashes,
        (Protocol::Stomp, true) => format!("/queue/{dots}"),
        (Protocol::Stomp, false) => format!("/topic/{dots}"),
        (Protocol::Amqp091 | Protocol::Jetstream, _) | (Protocol::Amqp10, true) => dots,
        (Protocol::Amqp10, false) => format!("/topics/{slashes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pattern: Pattern, publishers: u32, subscribers: u32, queues: u32) -> Plan {
        let spec = Spec { pattern, publishers, subscribers, queues, run: 1, ..Spec::default() };
        Plan::new(&spec)
    }

    #[test]
    fn every_shape_has_its_ends() {
        let pairs = plan(Pattern::Pairs, 2, 9, 1);
        assert_eq!(pairs.publishers, [["bench/00000001/00000"], ["bench/00000001/00001"]]);
        assert_eq!(pairs.subscribers[1], Reader::of("bench/00000001/00001".into(), Some((1, 1))));
        let scattered = plan(Pattern::Scattered, 3, 2, 1);
        assert_eq!(scattered.publishers[2].len(), 2);
        assert_eq!(scattered.subscribers[0].hears, Some((0, 3)));
        let fan_in = plan(Pattern::FanIn, 10, 7, 1);
        assert_eq!((fan_in.publishers.len(), fan_in.subscribers.len(), fan_in.copies), (10, 1, 1));
        let fan_out = plan(Pattern::FanOut, 1, 7, 1);
        assert_eq!((fan_out.subscribers.len(), fan_out.copies), (7, 7));
    }

    #[test]
    fn a_crowd_has_as_many_filters_as_asked_and_one_in_ten_is_a_wildcard() {
        let spec =
            Spec { pattern: Pattern::Crowd, publishers: 2, subscribers: 3, topics: 100, ..Spec::default() };
        let plan = Plan::new(&spec);
        let filters: Vec<&String> = plan
            .subscribers
            .iter()
            .flat_map(|reader| std::iter::once(&reader.source).chain(&reader.more))
            .collect();
        assert_eq!(filters.len(), 100);
        assert_eq!(filters.iter().filter(|filter| filter.contains(['+', '#'])).count(), 10);
        assert_eq!(plan.publishers[0].len(), 2_000);
        assert!(plan.publishers[0].iter().all(|topic| topic.len() == plan.publishers[1][0].len()));
        assert_ne!(plan.publishers[0], plan.publishers[1]);
    }

    #[test]
    fn consumers_compete_only_when_there_are_more_than_queues() {
        let queue = plan(Pattern::Queue, 4, 4, 2);
        assert!(queue.subscribers.iter().all(|reader| reader.hears.is_none()));
        assert_eq!(queue.subscribers[3].source, "$share/bench/bench/00000001/00001");
        assert_eq!(queue.publishers[3], ["bench/00000001/00001"]);
        let own = plan(Pattern::Queue, 4, 2, 2);
        assert_eq!(own.subscribers[1].hears, Some((0, 4)));
    }
}
