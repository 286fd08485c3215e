//! Model files by hand.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

/// Protobuf by hand: fields of bytes and numbers.
#[derive(Default, Clone)]
pub struct Message(pub Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn int(mut self, number: u64, value: i64) -> Self {
        self.varint(number << 3);
        self.varint(value as u64);
        self
    }

    pub fn bytes(mut self, number: u64, value: &[u8]) -> Self {
        self.varint(number << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub fn message(self, number: u64, inner: &Self) -> Self {
        self.bytes(number, &inner.0)
    }
}

pub fn value(name: &str, dims: &[i64]) -> Message {
    let shape =
        dims.iter().fold(Message::default(), |shape, &dim| shape.message(1, &Message::default().int(1, dim)));
    let tensor = Message::default().int(1, 1).message(2, &shape);
    Message::default().bytes(1, name.as_bytes()).message(2, &Message::default().message(1, &tensor))
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.bytes(1, input.as_bytes()));
    outputs.iter().fold(node, |node, output| node.bytes(2, output.as_bytes())).bytes(4, op.as_bytes())
}

pub fn tensor(name: &str, dims: &[i64]) -> Message {
    let elements = dims.iter().product::<i64>() as usize;
    let tensor = dims.iter().fold(Message::default(), |tensor, &dim| tensor.int(1, dim));
    let data: Vec<u8> = (0..elements).flat_map(|at| ((at % 7) as f32 - 3.0).to_le_bytes()).collect();
    tensor.int(2, 1).bytes(8, name.as_bytes()).bytes(9, &data)
}

pub fn model(opset: i64, graph: &Message) -> Vec<u8> {
    let import = Message::default().bytes(1, b"").int(2, opset);
    Message::default().int(1, 8).message(8, &import).message(7, graph).0
}

pub fn ints(name: &str, values: &[i64]) -> Message {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Message::default().int(1, values.len() as i64).int(2, 7).bytes(8, name.as_bytes()).bytes(9, &data)
}

pub fn with_int(node: Message, name: &str, value: i64) -> Message {
    node.message(5, &Message::default().bytes(1, name.as_bytes()).int(3, value).int(20, 2))
}

pub fn with_ints(node: Message, name: &str, values: &[i64]) -> Message {
    let attribute =
        values.iter().fold(Message::default().bytes(1, name.as_bytes()), |out, &value| out.int(8, value));
    node.message(5, &attribute.int(20, 7))
}

pub fn with_float(node: Message, name: &str, value: f32) -> Message {
    let mut attribute = Message::default().bytes(1, name.as_bytes());
    attribute.0.push(2 << 3 | 5);
    attribute.0.extend_from_slice(&value.to_le_bytes());
    node.message(5, &attribute.int(20, 1))
}

pub fn with_text(node: Message, name: &str, value: &str) -> Message {
    node.message(5, &Message::default().bytes(1, name.as_bytes()).bytes(4, value.as_bytes()).int(20, 3))
}

/// Whole numbers of 32 bits.
pub fn ints32(name: &str, values: &[i32]) -> Message {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Message::default().int(1, values.len() as i64).int(2, 6).bytes(8, name.as_bytes()).bytes(9, &data)
}

/// A `Constant` of floats: no parameter, as an initializer would be.
pub fn floats(output: &str, values: &[f32]) -> Message {
    let tensor = given("", &[values.len() as i64], values);
    let attribute = Message::default().bytes(1, b"value").message(5, &tensor).int(20, 4);
    node("Constant", &[], &[output]).message(5, &attribute)
}

/// Floats of given values.
pub fn given(name: &str, dims: &[i64], values: &[f32]) -> Message {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = dims.iter().fold(Message::default(), |tensor, &dim| tensor.int(1, dim));
    tensor.int(2, 1).bytes(8, name.as_bytes()).bytes(9, &data)
}

/// Floats from -0.5 to 0.5, times a factor, that look drawn: other ones for each name.
pub fn drawn(name: &str, dims: &[i64], factor: f32) -> Message {
    let mut state = name.bytes().fold(7_u64, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u32 << 24) as f32 - 0.5) * factor
    };
    let values: Vec<f32> = (0..dims.iter().product()).map(|_: i64| next()).collect();
    given(name, dims, &values)
}

/// A model of opset 18 with an input `x`, nodes, initializers, and an output `y` whose shape nobody needs.
pub fn network(x: &[i64], nodes: &[Message], initializers: &[Message]) -> Vec<u8> {
    network_of(18, x, nodes, initializers)
}

pub fn network_of(opset: i64, x: &[i64], nodes: &[Message], initializers: &[Message]) -> Vec<u8> {
    let graph = nodes.iter().fold(Message::default(), |graph, node| graph.message(1, node));
    let graph = initializers.iter().fold(graph, |graph, tensor| graph.message(5, tensor));
    model(opset, &graph.message(11, &value("x", x)).message(12, &value("y", &[])))
}
