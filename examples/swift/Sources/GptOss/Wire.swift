// What goes over the wire: the parts of OpenAI's chat completions that an app needs.

import Foundation

/// Any JSON value: the schema of a tool's parameters, for one.
public indirect enum JSON: Codable, Equatable, Sendable {
    case null
    case bool(Bool)
    case number(Double)
    case string(String)
    case array([JSON])
    case object([String: JSON])

    public init(from decoder: Decoder) throws {
        let value = try decoder.singleValueContainer()
        if value.decodeNil() {
            self = .null
        } else if let bool = try? value.decode(Bool.self) {
            self = .bool(bool)
        } else if let number = try? value.decode(Double.self) {
            self = .number(number)
        } else if let string = try? value.decode(String.self) {
            self = .string(string)
        } else if let array = try? value.decode([JSON].self) {
            self = .array(array)
        } else {
            self = .object(try value.decode([String: JSON].self))
        }
    }

    public func encode(to encoder: Encoder) throws {
        var value = encoder.singleValueContainer()
        switch self {
        case .null: try value.encodeNil()
        case .bool(let bool): try value.encode(bool)
        case .number(let number): try value.encode(number)
        case .string(let string): try value.encode(string)
        case .array(let array): try value.encode(array)
        case .object(let object): try value.encode(object)
        }
    }
}

/// A function the model may call.
public struct Tool: Codable, Equatable, Sendable {
    public struct Function: Codable, Equatable, Sendable {
        public var name: String
        public var description: String
        public var parameters: JSON
    }

    public var type = "function"
    public var function: Function

    public init(name: String, description: String, parameters: JSON) {
        function = Function(name: name, description: description, parameters: parameters)
    }
}

/// A call the model made; `arguments` is JSON as text.
public struct ToolCall: Codable, Equatable, Sendable {
    public struct Function: Codable, Equatable, Sendable {
        public var name: String
        public var arguments: String
    }

    public var id: String
    public var type = "function"
    public var function: Function
}

/// One message of a conversation.
///
/// Send back what came, with its reasoning: between a call and its result the model
/// needs it; where it does not, the server drops it.
public struct Message: Codable, Equatable, Sendable {
    public var role: String
    public var content: String?
    public var reasoning: String?
    public var toolCalls: [ToolCall]?
    public var toolCallID: String?

    enum CodingKeys: String, CodingKey {
        case role, content, reasoning
        case toolCalls = "tool_calls"
        case toolCallID = "tool_call_id"
    }

    public init(
        role: String, content: String?, reasoning: String? = nil,
        toolCalls: [ToolCall]? = nil, toolCallID: String? = nil
    ) {
        self.role = role
        self.content = content
        self.reasoning = reasoning
        self.toolCalls = toolCalls
        self.toolCallID = toolCallID
    }

    public static func user(_ text: String) -> Message { Message(role: "user", content: text) }

    public static func system(_ text: String) -> Message {
        Message(role: "system", content: text)
    }

    public static func result(of call: ToolCall, _ text: String) -> Message {
        Message(role: "tool", content: text, toolCallID: call.id)
    }
}

/// A request for a chat completion; nil leaves a choice to the server.
public struct ChatRequest: Codable, Sendable {
    public var model: String
    public var messages: [Message]
    public var tools: [Tool]?
    public var reasoningEffort: String?
    public var maxCompletionTokens: Int?
    public var temperature: Double?
    public var seed: Int?
    var stream: Bool?

    enum CodingKeys: String, CodingKey {
        case model, messages, tools, temperature, seed, stream
        case reasoningEffort = "reasoning_effort"
        case maxCompletionTokens = "max_completion_tokens"
    }

    public init(model: String, messages: [Message]) {
        self.model = model
        self.messages = messages
    }
}

/// What comes of a streamed answer, piece by piece.
public enum Piece: Equatable, Sendable {
    case reasoning(String)
    case answer(String)
    /// The whole reply, last: append it to the conversation.
    case done(Message, finishReason: String)
}

/// One chunk on the wire.
struct Chunk: Decodable {
    struct Choice: Decodable {
        struct Delta: Decodable {
            struct Call: Decodable {
                struct Function: Decodable {
                    var name: String?
                    var arguments: String?
                }

                var index: Int
                var id: String?
                var function: Function?
            }

            var content: String?
            var reasoning: String?
            var toolCalls: [Call]?

            enum CodingKeys: String, CodingKey {
                case content, reasoning
                case toolCalls = "tool_calls"
            }
        }

        var delta: Delta
        var finishReason: String?

        enum CodingKeys: String, CodingKey {
            case delta
            case finishReason = "finish_reason"
        }
    }

    var choices: [Choice]
}

/// The error of a server in its own words.
struct Complaint: Decodable {
    struct Words: Decodable { var message: String }
    var error: Words
}

struct ModelList: Decodable {
    struct Model: Decodable { var id: String }
    var data: [Model]
}
