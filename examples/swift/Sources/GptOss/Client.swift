// Asks a server of `mlx-gptoss serve`, and streams what it says.

import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking  // URLSession on Linux
#endif

public enum GptOssError: Error, Equatable, CustomStringConvertible {
    case refused(status: Int, message: String)
    case brokenStream
    case notStarted(String)

    public var description: String {
        switch self {
        case .refused(let status, let message): return "HTTP \(status): \(message)"
        case .brokenStream: return "the server's answer ended in its midst"
        case .notStarted(let why): return "the server did not start: \(why)"
        }
    }
}

/// A client of one server. Ending the iteration of a stream stops the model.
public struct Client: Sendable {
    public let url: URL
    public let token: String?

    public init(url: URL, token: String? = nil) {
        self.url = url
        self.token = token
    }

    /// The ids of the models the server knows.
    public func models() async throws -> [String] {
        var body = Data()
        for try await bytes in Transfer.start(request("v1/models")) { body.append(bytes) }
        return try JSONDecoder().decode(ModelList.self, from: body).data.map(\.id)
    }

    /// Ask, and yield the answer as it comes; the last piece is the whole message.
    public func stream(_ chat: ChatRequest) -> AsyncThrowingStream<Piece, Error> {
        AsyncThrowingStream { continuation in
            let reading = Task {
                do {
                    var lines = EventLines()
                    var assembly = Assembly()
                    for try await bytes in Transfer.start(try request(posting: chat)) {
                        for data in lines.take(bytes) {
                            for piece in try assembly.take(data) { continuation.yield(piece) }
                        }
                    }
                    continuation.yield(try assembly.message())
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in reading.cancel() }
        }
    }

    private func request(_ path: String) -> URLRequest {
        var request = URLRequest(url: url.appendingPathComponent(path))
        request.timeoutInterval = 3600  // a long prompt is read in silence
        if let token { request.setValue("Bearer \(token)", forHTTPHeaderField: "Authorization") }
        return request
    }

    private func request(posting chat: ChatRequest) throws -> URLRequest {
        var streamed = chat
        streamed.stream = true
        var request = request("v1/chat/completions")
        request.httpMethod = "POST"
        request.setValue("application/json", forHTTPHeaderField: "Content-Type")
        request.httpBody = try JSONEncoder().encode(streamed)
        return request
    }
}
