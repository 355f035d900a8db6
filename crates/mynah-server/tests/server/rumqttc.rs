//! rumqttc, the MQTT client of Rust, in 3.1.1 and 5.0: what it publishes comes, once and in order, and outlives its connection.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rumqttc::{QoS, v5};

use crate::process::{Broker, address, folder};

const WAIT: Duration = Duration::from_secs(20);

fn start(name: &str) -> (Broker, String, u16) {
    let broker = Broker::start(folder(name), &[]);
    let lines = broker.until("/api/v1/overview");
    let (host, port) =
        address(&lines, "mqtt").rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    (broker, host, port.parse().unwrap())
}

/// Polls until the connection ends, and hands on what comes.
fn events_of_4(mut connection: rumqttc::Connection) -> Receiver<rumqttc::Packet> {
    let (sender, events) = channel();
    thread::spawn(move || {
        for event in connection.iter() {
            match event {
                Ok(rumqttc::Event::Incoming(packet)) => drop(sender.send(packet)),
                Ok(rumqttc::Event::Outgoing(_)) => {}
                Err(_) => break,
            }
        }
    });
    events
}

fn events_of_5(mut connection: v5::Connection) -> Receiver<v5::mqttbytes::v5::Packet> {
    let (sender, events) = channel();
    thread::spawn(move || {
        for event in connection.iter() {
            match event {
                Ok(v5::Event::Incoming(packet)) => drop(sender.send(packet)),
                Ok(v5::Event::Outgoing(_)) => {}
                Err(_) => break,
            }
        }
    });
    events
}

/// The next packet that `wanted` makes something of.
fn next<P: std::fmt::Debug, T>(events: &Receiver<P>, wanted: impl Fn(&P) -> Option<T>) -> T {
    loop {
        let packet = events.recv_timeout(WAIT).unwrap();
        if let Some(found) = wanted(&packet) {
            return found;
        }
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8(payload.to_vec()).unwrap()
}

#[test]
fn each_quality_of_service_in_order_and_once() {
    let (_broker, host, port) = start("rumqttc-qos");
    let connect = |id: &str| {
        let mut options = rumqttc::MqttOptions::new(id, &host, port);
        options.set_keep_alive(Duration::from_secs(30));
        rumqttc::Client::new(options, 1000)
    };
    let (reader, connection) = connect("reader");
    let got = events_of_4(connection);
    reader.subscribe("plant/#", QoS::ExactlyOnce).unwrap();
    next(&got, |packet| matches!(packet, rumqttc::Packet::SubAck(_)).then_some(()));

    let (writer, connection) = connect("writer");
    let _confirms = events_of_4(connection);
    for (qos, name) in [(QoS::AtMostOnce, "0"), (QoS::AtLeastOnce, "1"), (QoS::ExactlyOnce, "2")] {
        for number in 0..300 {
            writer.publish(format!("plant/{name}"), qos, false, number.to_string()).unwrap();
        }
        for number in 0..300 {
            let publish = next(&got, |packet| {
                if let rumqttc::Packet::Publish(publish) = packet { Some(publish.clone()) } else { None }
            });
            assert_eq!(
                (publish.topic, publish.qos, text(&publish.payload)),
                (format!("plant/{name}"), qos, number.to_string())
            );
        }
    }
    writer.disconnect().unwrap();
    reader.disconnect().unwrap();
}

#[test]
fn a_session_of_3_1_1_waits_for_its_client() {
    let (_broker, host, port) = start("rumqttc-session");
    let connect = |id: &str, clean| {
        let mut options = rumqttc::MqttOptions::new(id, &host, port);
        options.set_clean_session(clean);
        let (client, connection) = rumqttc::Client::new(options, 100);
        let events = events_of_4(connection);
        let present = next(&events, |packet| {
            if let rumqttc::Packet::ConnAck(connack) = packet { Some(connack.session_present) } else { None }
        });
        (client, events, present)
    };
    let (client, events, present) = connect("waiter", false);
    assert!(!present);
    client.subscribe("orders", QoS::AtLeastOnce).unwrap();
    next(&events, |packet| matches!(packet, rumqttc::Packet::SubAck(_)).then_some(()));
    client.disconnect().unwrap();

    let (writer, confirms, _) = connect("writer", true);
    for number in 0..20 {
        writer.publish("orders", QoS::AtLeastOnce, false, number.to_string()).unwrap();
        next(&confirms, |packet| matches!(packet, rumqttc::Packet::PubAck(_)).then_some(()));
    }
    let (_client, events, present) = connect("waiter", false);
    assert!(present);
    for number in 0..20 {
        let payload = next(&events, |packet| {
            if let rumqttc::Packet::Publish(publish) = packet { Some(text(&publish.payload)) } else { None }
        });
        assert_eq!(payload, number.to_string());
    }
}

#[test]
fn properties_and_a_will_of_5() {
    use v5::mqttbytes::QoS;
    use v5::mqttbytes::v5::{LastWill, Packet, PublishProperties};

    let (_broker, host, port) = start("rumqttc-5");
    let mut options = v5::MqttOptions::new("asked", &host, port);
    options.set_topic_alias_max(Some(10));
    let (reader, connection) = v5::Client::new(options, 100);
    let got = events_of_5(connection);
    reader.subscribe("ask/#", QoS::ExactlyOnce).unwrap();
    next(&got, |packet| matches!(packet, Packet::SubAck(_)).then_some(()));

    let mut options = v5::MqttOptions::new("asking", &host, port);
    options.set_last_will(LastWill::new("ask/will", "gone", QoS::AtLeastOnce, false, None));
    let (writer, connection) = v5::Client::new(options, 100);
    let confirms = events_of_5(connection);
    let properties = PublishProperties {
        response_topic: Some("answers/1".to_owned()),
        correlation_data: Some("c-1".into()),
        content_type: Some("text/plain".to_owned()),
        message_expiry_interval: Some(60),
        user_properties: vec![("k".to_owned(), "v".to_owned()), ("k".to_owned(), "w".to_owned())],
        ..PublishProperties::default()
    };
    let publish =
        |packet: &Packet| if let Packet::Publish(publish) = packet { Some(publish.clone()) } else { None };
    for _ in 0..3 {
        writer.publish_with_properties("ask/time", QoS::ExactlyOnce, false, "?", properties.clone()).unwrap();
        next(&confirms, |packet| matches!(packet, Packet::PubComp(_)).then_some(()));
        let seen = next(&got, publish).properties.unwrap();
        assert_eq!(seen.response_topic, properties.response_topic);
        assert_eq!(seen.correlation_data, properties.correlation_data);
        assert_eq!(seen.content_type, properties.content_type);
        assert_eq!(seen.user_properties, properties.user_properties);
        assert!(seen.message_expiry_interval.is_some_and(|left| (58..=60).contains(&left)));
    }
    // DISCONNECT with reason 0 takes the will with it.
    writer.disconnect().unwrap();
    reader.publish("ask/after", QoS::AtLeastOnce, false, "x").unwrap();
    assert_eq!(text(&next(&got, publish).payload), "x");
}
