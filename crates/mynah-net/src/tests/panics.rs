//! A fault of ours in one connection is that connection's end and nobody else's.

use super::lab::Lab;

/// It is gone, nothing of it is left, and the thread works for others as before.
fn assert_only_it_ended(lab: &mut Lab, one: usize) {
    assert!(lab.is_done(one));
    assert!(!lab.broker.connections.contains_key(&lab.tasks[one].number));
    let other = lab.speaking("qsub q\nsub u\necho a\n");
    lab.socket(other).send("pub u m\nput q n\n");
    lab.settle();
    assert!(!lab.tasks[other].panicked);
    let text = lab.socket(other).text();
    assert!(text.contains("a\n") && text.contains("m\n") && text.contains("n\n"), "{text}");
    lab.socket(other).end();
    lab.settle();
    lab.assert_empty();
}

#[test]
fn in_bytes() {
    let mut lab = Lab::new();
    let one = lab.speaking("qsub q\nsub t\nlater 5000\n");
    lab.socket(one).send("pubt t x\npanic\n");
    lab.settle();
    assert_only_it_ended(&mut lab, one);
}

#[test]
fn in_the_first_bytes() {
    let mut lab = Lab::new();
    let one = lab.connect();
    lab.socket(one).send("LINE\npanic\n");
    lab.settle();
    assert_only_it_ended(&mut lab, one);
}

#[test]
fn at_the_end() {
    let mut lab = Lab::new();
    let one = lab.speaking("qsub q\nsub t\npanic-at-last\n");
    lab.socket(one).end();
    lab.settle();
    assert_eq!(lab.told_lost(one), 1);
    assert_only_it_ended(&mut lab, one);
}

/// What it had taken from its inbox is not the next connection's.
#[test]
fn while_handling_what_others_sent() {
    let mut lab = Lab::new();
    let one = lab.speaking("qsub p\nsub t\n");
    let two = lab.speaking("sub v\n");
    let three = lab.speaking("");
    lab.socket(two).take();
    lab.socket(one).send("explode\n");
    lab.settle();
    // Deliveries come after the run, and are handled by the connection.
    lab.socket(three).send("pub t secret\nput p secret\nput p secret\n");
    lab.settle();
    assert!(lab.is_done(one));
    lab.socket(three).send("pub v open\npub v open\n");
    lab.settle();
    assert_eq!(lab.socket(two).text(), "open\nopen\n");
    lab.socket(three).send("qsub p\n");
    lab.settle();
    // Both are there once, for the one consumer that is left.
    assert_eq!(lab.socket(three).text().matches("secret\n").count(), 2);
    lab.socket(two).end();
    lab.socket(three).end();
    lab.settle();
    assert_only_it_ended(&mut lab, one);
}

/// Receivers of what it had handed over before are woken.
#[test]
fn after_publishing() {
    let mut lab = Lab::new();
    let one = lab.speaking("");
    let two = lab.speaking("sub t\n");
    lab.socket(two).take();
    // A ticket's answer makes the run go out; the panic comes before anybody is woken.
    lab.socket(one).send("explode\npubt t x\n");
    lab.settle();
    assert!(lab.is_done(one));
    assert_eq!(lab.socket(two).text(), "x\n");
    lab.socket(two).send("pub t y\n");
    lab.settle();
    assert_eq!(lab.socket(two).text(), "y\n");
    lab.socket(two).end();
    lab.settle();
    assert_only_it_ended(&mut lab, one);
}
