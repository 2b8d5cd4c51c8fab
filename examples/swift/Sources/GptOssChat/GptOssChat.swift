// A small chat app over the library. Not compiled on Linux, which has no SwiftUI, and
// so not by the tests of this project either: it was written without a Mac at hand.

#if canImport(SwiftUI)

    import GptOss
    import SwiftUI

    @main
    struct GptOssChat: App {
        @StateObject private var conversation = Conversation()

        var body: some Scene {
            WindowGroup("gpt-oss") {
                ChatView(conversation: conversation).task { await conversation.start() }
            }
        }
    }

    @MainActor
    final class Conversation: ObservableObject {
        @Published private(set) var messages: [Message] = []
        @Published private(set) var reasoning = ""
        @Published private(set) var answer = ""
        @Published private(set) var status = "Loading the model…"
        @Published private(set) var isAnswering = false

        private var server: ServerProcess?
        private var asking: Task<Void, Never>?

        /// Start the server of the bundle, or the one GPTOSS_COMMAND names.
        func start() async {
            guard server == nil else { return }
            let environment = ProcessInfo.processInfo.environment
            let bundled = Bundle.main.resourceURL?.appendingPathComponent(
                "mlx-gptoss/bin/mlx-gptoss")
            let named = environment["GPTOSS_COMMAND"].map { URL(fileURLWithPath: $0) }
            guard let command = named ?? bundled else { return }
            do {
                let model = environment["MLX_GPTOSS_MODEL"] ?? "demo"
                server = try await ServerProcess.start(command: command, model: model)
                status = server?.model ?? ""
            } catch {
                status = "\(error)"
            }
        }

        func send(_ text: String) {
            guard let server, !isAnswering, !text.isEmpty else { return }
            messages.append(.user(text))
            isAnswering = true
            asking = Task {
                do {
                    let chat = ChatRequest(model: server.model, messages: messages)
                    for try await piece in server.client.stream(chat) {
                        switch piece {
                        case .reasoning(let text): reasoning += text
                        case .answer(let text): answer += text
                        case .done(let message, _): messages.append(message)
                        }
                    }
                    if Task.isCancelled { keepWhatCame() }
                } catch {
                    keepWhatCame()
                    if !Task.isCancelled { status = "\(error)" }
                }
                (reasoning, answer, isAnswering) = ("", "", false)
            }
        }

        private func keepWhatCame() {
            if !answer.isEmpty { messages.append(Message(role: "assistant", content: answer)) }
        }

        /// Stop the model within a token: the connection is closed.
        func stop() { asking?.cancel() }
    }

    struct ChatView: View {
        @ObservedObject var conversation: Conversation
        @State private var draft = ""

        var body: some View {
            VStack(spacing: 0) {
                ScrollView {
                    LazyVStack(alignment: .leading, spacing: 12) {
                        ForEach(Array(conversation.messages.enumerated()), id: \.offset) {
                            Bubble(message: $0.element)
                        }
                        if !conversation.reasoning.isEmpty {
                            Text(conversation.reasoning).font(.callout).foregroundStyle(.secondary)
                        }
                        if !conversation.answer.isEmpty { Text(conversation.answer) }
                    }
                    .textSelection(.enabled)
                    .frame(maxWidth: .infinity, alignment: .leading)
                    .padding()
                }
                Divider()
                HStack {
                    TextField("Message", text: $draft, axis: .vertical).onSubmit(send)
                    if conversation.isAnswering {
                        Button("Stop", action: conversation.stop)
                            .keyboardShortcut(".", modifiers: .command)
                    } else {
                        Button("Send", action: send)
                    }
                }
                .padding()
                Text(conversation.status).font(.caption).foregroundStyle(.secondary)
                    .padding(.bottom, 6)
            }
            .frame(minWidth: 420, minHeight: 480)
        }

        private func send() {
            conversation.send(draft)
            draft = ""
        }
    }

    struct Bubble: View {
        let message: Message

        var body: some View {
            VStack(alignment: .leading) {
                Text(message.role).font(.caption).foregroundStyle(.secondary)
                Text(message.content ?? "")
            }
        }
    }

#else

    @main
    enum GptOssChat {
        static func main() { print("GptOssChat needs SwiftUI: build it on a Mac") }
    }

#endif
