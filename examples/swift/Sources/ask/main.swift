// ask COMMAND MODEL QUESTION: start a server as a child, ask it, show the answer.
//
//     swift run ask $(which mlx-gptoss) demo "What is 417 + 285?"

import Foundation
import GptOss

let arguments = CommandLine.arguments
guard arguments.count == 4 else {
    FileHandle.standardError.write(Data("usage: ask COMMAND MODEL QUESTION\n".utf8))
    exit(2)
}

func show(_ text: String, _ stream: FileHandle) { stream.write(Data(text.utf8)) }

let weather = Tool(
    name: "get_weather", description: "Gets the weather for a city.",
    parameters: .object([
        "type": .string("object"),
        "properties": .object(["city": .object(["type": .string("string")])]),
        "required": .array([.string("city")]),
    ]))

do {
    let server = try await ServerProcess.start(
        command: URL(fileURLWithPath: arguments[1]), model: arguments[2])
    defer { server.stop() }
    var chat = ChatRequest(model: server.model, messages: [.user(arguments[3])])
    chat.tools = [weather]
    chat.temperature = 0
    var calling = true
    while calling {
        calling = false
        for try await piece in server.client.stream(chat) {
            switch piece {
            case .reasoning(let text): show(text, .standardError)
            case .answer(let text): show(text, .standardOutput)
            case .done(let message, _):
                chat.messages.append(message)
                for call in message.toolCalls ?? [] {
                    show("\(call.function.name)\(call.function.arguments)\n", .standardError)
                    chat.messages.append(.result(of: call, #"{"temperature": 21}"#))
                    calling = true
                }
            }
        }
        show("\n", .standardError)
    }
    show("\n", .standardOutput)
} catch {
    show("\(error)\n", .standardError)
    exit(1)
}
