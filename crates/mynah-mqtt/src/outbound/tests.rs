//! Identifiers: their order, their reuse, and a random walk beside a plain map.

use super::*;

#[test]
fn identifiers_go_round_without_0() {
    assert_eq!(id_behind(0, 0), 1);
    assert_eq!(id_behind(65_534, 0), 65_535);
    assert_eq!(id_behind(65_534, 1), 1);
    let mut outbound = Outbound::new();
    outbound.set_window(3);
    let mut last = 0;
    for _ in 0..140_000u32 {
        let id = outbound.take(Guarantee::AtLeastOnce, NOBODY, DeliveryTag(0)).unwrap();
        assert_eq!(id, if last == u16::MAX { 1 } else { last + 1 });
        assert!(outbound.advance(id, State::AwaitsPubAck, State::Free).is_some());
        last = id;
    }
    assert_eq!(outbound.slots.capacity(), 0, "acknowledged in order");
}

/// Takes and acknowledges at random, beside a map of what is out.
#[test]
fn identifiers_fuzz_against_a_map() {
    let own = ConsumerId(3);
    for seed in 1..200u64 {
        let (mut outbound, mut out) = (Outbound::new(), std::collections::BTreeMap::new());
        let mut order = VecDeque::new();
        outbound.base = u16::MAX - 20;
        outbound.set_window(12);
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for _ in 0..2000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let dice = random >> 33;
            // Some receivers see nothing but QoS 1 without settling, some acknowledge in order.
            let owner = if seed % 3 > 0 && dice % 7 == 0 { own } else { NOBODY };
            let guarantee =
                if seed % 5 > 2 && dice % 11 == 0 { Guarantee::ExactlyOnce } else { Guarantee::AtLeastOnce };
            if dice % 2 == 0 {
                let id = outbound.take(guarantee, owner, DeliveryTag(dice));
                assert_eq!(id.is_some(), out.len() < 12);
                let Some(id) = id else { continue };
                assert!(out.insert(id, (guarantee, owner, DeliveryTag(dice))).is_none(), "{id} twice");
                order.push_back(id);
            } else {
                let at = if dice % 13 == 0 && seed % 4 > 0 { order.len() / 2 } else { 0 };
                let Some(id) = order.remove(at) else {
                    assert_eq!(outbound.advance(1, State::AwaitsPubAck, State::Free), None);
                    continue;
                };
                let (guarantee, consumer, tag) = out.remove(&id).unwrap();
                let (right, wrong) = match guarantee {
                    Guarantee::ExactlyOnce => (State::AwaitsPubRec, State::AwaitsPubAck),
                    Guarantee::AtMostOnce | Guarantee::AtLeastOnce => {
                        (State::AwaitsPubAck, State::AwaitsPubComp)
                    }
                };
                if dice % 17 == 0 {
                    assert_eq!(outbound.advance(id, wrong, State::Free), None);
                }
                let freed = outbound.advance(id, right, State::Free).unwrap();
                assert_eq!(freed.consumer, consumer);
                assert!(consumer == NOBODY || freed.tag == tag);
                assert_eq!(outbound.advance(id, right, State::Free), None, "{id} is free");
            }
            assert_eq!(outbound.credit() as usize, 12 - out.len());
        }
    }
}

#[test]
fn a_resumed_table_is_as_short_as_can_be() {
    assert_eq!(shortest_span(&[]), (1, 0));
    assert_eq!(shortest_span(&[60_000]), (60_000, 1));
    assert_eq!(shortest_span(&[1, 3]), (1, 3));
    assert_eq!(shortest_span(&[1, 2, 65_534, 65_535]), (65_534, 4));
    let owed: Vec<Owed> = [65_534, 2, 1]
        .into_iter()
        .zip(0..)
        .map(|(id, tag)| Owed { id, tag: DeliveryTag(tag), phase: Phase::Received })
        .collect();
    let mut outbound = Outbound::new();
    outbound.set_window(10);
    outbound.resume(&owed);
    assert_eq!(outbound.owed(), owed);
    assert_eq!((outbound.slots.len(), outbound.credit()), (4, 7));
    assert_eq!(outbound.take(Guarantee::AtLeastOnce, NOBODY, DeliveryTag(0)), Some(65_535));
    assert_eq!(outbound.take(Guarantee::AtLeastOnce, NOBODY, DeliveryTag(0)), Some(3));
}
