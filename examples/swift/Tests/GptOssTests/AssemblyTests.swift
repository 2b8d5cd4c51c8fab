import Foundation
import XCTest

@testable import GptOss

final class AssemblyTests: XCTestCase {
    func testEventsAreCutWhereverTheBytesAre() {
        let body = Data("event: x\r\ndata: {\"é\": 1}\r\n\r\n: ping\n\ndata: a\ndata:b\n\n".utf8)
        for size in 1...body.count {
            var lines = EventLines()
            var found: [String] = []
            var rest = body[...]
            while !rest.isEmpty {
                found += lines.take(Data(rest.prefix(size)))
                rest = rest.dropFirst(size)
            }
            XCTAssertEqual(found, ["{\"é\": 1}", "a\nb"])
        }
    }

    func testDeltasBecomeAMessageWithItsCalls() throws {
        var assembly = Assembly()
        let deltas = [
            #"{"role": "assistant", "content": null}"#,
            #"{"reasoning": "I should "}"#,
            #"{"reasoning": "look."}"#,
            #"{"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}"#,
            #"{"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}"#,
        ]
        var pieces: [Piece] = []
        for delta in deltas {
            let chunk = #"{"choices": [{"delta": \#(delta), "finish_reason": null}]}"#
            pieces += try assembly.take(chunk)
        }
        let last = #"{"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}"#
        pieces += try assembly.take(last)
        pieces += try assembly.take(#"{"choices": []}"#) + assembly.take("[DONE]")
        XCTAssertEqual(pieces, [.reasoning("I should "), .reasoning("look.")])
        let call = ToolCall(id: "c", function: .init(name: "f", arguments: "{}"))
        let message = Message(
            role: "assistant", content: nil, reasoning: "I should look.", toolCalls: [call])
        XCTAssertEqual(try assembly.message(), .done(message, finishReason: "tool_calls"))
    }

    func testAStreamThatBreaksOffIsAnError() throws {
        var assembly = Assembly()
        _ = try assembly.take(#"{"choices": [{"delta": {"content": "a"}}]}"#)
        XCTAssertThrowsError(try assembly.message())
        XCTAssertThrowsError(try assembly.take(#"{"error": {"message": "out of memory"}}"#)) {
            let expected = GptOssError.refused(status: 200, message: "out of memory")
            XCTAssertEqual($0 as? GptOssError, expected)
        }
    }
}
