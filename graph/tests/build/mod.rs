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
