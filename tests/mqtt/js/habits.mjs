// What an application does with MQTT.js, the same in Node and in a browser: `run` answers a list of what it saw.

const VERSIONS = { "3.1": ["MQIsdp", 3], "3.1.1": ["MQTT", 4], "5.0": ["MQTT", 5] };

class Inbox {
    constructor(client) {
        this.held = [];
        this.waiting = [];
        client.on("message", (topic, payload, packet) => {
            const got = { topic, payload: payload.toString(), qos: packet.qos, retain: packet.retain, properties: packet.properties ?? {} };
            const next = this.waiting.shift();
            next ? next(got) : this.held.push(got);
        });
    }

    next() {
        return this.held.length ? Promise.resolve(this.held.shift()) : new Promise((resolve) => this.waiting.push(resolve));
    }
}

const short = (got) => `${got.topic} ${got.payload} qos ${got.qos} retain ${got.retain}`;

export async function run(mqtt, { url, version, topic, options }) {
    const [protocolId, protocolVersion] = VERSIONS[version];
    const five = protocolVersion === 5;
    const connect = (more) => mqtt.connectAsync(url, { protocolId, protocolVersion, reconnectPeriod: 0, connectTimeout: 10000, ...options, ...more });
    const seen = [];

    // Publish and subscribe at each quality of service, an application message of 100,000 bytes, retained, unsubscribe.
    const a = await connect({ clientId: `${topic}a` });
    const inbox = new Inbox(a);
    await a.subscribeAsync(`${topic}/+/state`, { qos: 2 });
    for (const qos of [0, 1, 2]) {
        await a.publishAsync(`${topic}/lamp/state`, `on ${qos}`, { qos });
        seen.push(short(await inbox.next()));
    }
    await a.publishAsync(`${topic}/lamp/state`, "x".repeat(100000), { qos: 1 });
    seen.push((await inbox.next()).payload.length);
    await a.publishAsync(`${topic}/door/state`, "shut", { qos: 1, retain: true });
    seen.push(short(await inbox.next()));
    await a.unsubscribeAsync(`${topic}/+/state`);
    await a.subscribeAsync(`${topic}/door/state`, { qos: 1 });
    seen.push(short(await inbox.next()));
    await a.publishAsync(`${topic}/door/state`, "", { qos: 1, retain: true });
    seen.push(short(await inbox.next()));

    // A session that outlives its connection.
    const lasting = five ? { clean: false, properties: { sessionExpiryInterval: 60 } } : { clean: false };
    const first = await connect({ clientId: `${topic}b`, ...lasting });
    await first.subscribeAsync(`${topic}/orders`, { qos: 2 });
    await first.endAsync();
    for (const each of [1, 2, 3]) await a.publishAsync(`${topic}/orders`, `${each}`, { qos: each === 3 ? 2 : 1 });
    const again = mqtt.connect(url, { protocolId, protocolVersion, reconnectPeriod: 0, clientId: `${topic}b`, ...options, ...lasting });
    const orders = new Inbox(again);
    const connack = await new Promise((resolve, reject) => { again.once("connect", resolve); again.once("error", reject); });
    if (version !== "3.1") seen.push(`session present ${connack.sessionPresent}`);
    for (const _ of [1, 2, 3]) seen.push(short(await orders.next()));
    await again.endAsync();

    // A will, and what it does not do at an orderly end.
    await a.subscribeAsync(`${topic}/will`, { qos: 1 });
    const will = { topic: `${topic}/will`, payload: "gone", qos: 1, retain: false };
    const orderly = await connect({ clientId: `${topic}c`, will: { ...will, payload: "never" } });
    await orderly.endAsync();
    const dying = await connect({ clientId: `${topic}d`, will });
    // By force: without DISCONNECT.
    await dying.endAsync(true);
    seen.push(short(await inbox.next()));

    if (five) {
        await a.subscribeAsync(`${topic}/ask`, { qos: 1, properties: { subscriptionIdentifier: 9 } });
        const properties = {
            contentType: "text/plain", responseTopic: "back/here", correlationData: new TextEncoder().encode("c-1"),
            messageExpiryInterval: 60, userProperties: { k: ["v", "w"] },
        };
        await a.publishAsync(`${topic}/ask`, "?", { qos: 1, properties });
        const got = (await inbox.next()).properties;
        seen.push([got.contentType, got.responseTopic, got.correlationData.toString(), got.userProperties.k.join(), got.subscriptionIdentifier].join(" "));
    }
    await a.endAsync();
    return seen;
}
