// From lines to events, and from events to a message. Knows nothing of connections.

import Foundation

/// Cuts the bytes of a body into server-sent events' data.
struct EventLines {
    private var buffer = Data()
    private var data: [String] = []

    /// Take bytes in; return the data of the events they complete.
    mutating func take(_ bytes: Data) -> [String] {
        buffer.append(bytes)
        var found: [String] = []
        while let end = buffer.firstIndex(of: UInt8(ascii: "\n")) {
            var line = String(decoding: buffer[buffer.startIndex..<end], as: UTF8.self)
            buffer.removeSubrange(buffer.startIndex...end)
            if line.hasSuffix("\r") { line.removeLast() }
            if line.isEmpty {
                if !data.isEmpty { found.append(data.joined(separator: "\n")) }
                data = []
            } else if line.hasPrefix("data:") {
                let text = line.dropFirst("data:".count)
                data.append(String(text.hasPrefix(" ") ? text.dropFirst() : text))
            }
        }
        return found
    }
}

/// Puts the deltas of one streamed reply together.
struct Assembly {
    private var content: String?
    private var reasoning: String?
    private var calls: [ToolCall] = []
    private(set) var finishReason: String?

    /// Take the data of one event in; return the pieces to show.
    mutating func take(_ data: String) throws -> [Piece] {
        if data == "[DONE]" { return [] }
        let bytes = Data(data.utf8)
        if let complaint = try? JSONDecoder().decode(Complaint.self, from: bytes) {
            throw GptOssError.refused(status: 200, message: complaint.error.message)
        }
        let chunk = try JSONDecoder().decode(Chunk.self, from: bytes)
        guard let choice = chunk.choices.first else { return [] }
        var pieces: [Piece] = []
        if let text = choice.delta.reasoning, !text.isEmpty {
            reasoning = (reasoning ?? "") + text
            pieces.append(.reasoning(text))
        }
        if let text = choice.delta.content, !text.isEmpty {
            content = (content ?? "") + text
            pieces.append(.answer(text))
        }
        for part in choice.delta.toolCalls ?? [] { try add(part) }
        finishReason = choice.finishReason ?? finishReason
        return pieces
    }

    private mutating func add(_ part: Chunk.Choice.Delta.Call) throws {
        if part.index == calls.count, let id = part.id, let name = part.function?.name {
            calls.append(ToolCall(id: id, function: .init(name: name, arguments: "")))
        }
        guard calls.indices.contains(part.index) else { throw GptOssError.brokenStream }
        calls[part.index].function.arguments += part.function?.arguments ?? ""
    }

    /// The whole reply, once it has ended.
    func message() throws -> Piece {
        guard let finishReason else { throw GptOssError.brokenStream }
        let message = Message(
            role: "assistant", content: content, reasoning: reasoning,
            toolCalls: calls.isEmpty ? nil : calls)
        return .done(message, finishReason: finishReason)
    }
}
