"""The server that `charlstm serve` is measured against: PyTorch's loop, a thread for each request.

python benchmarks/serve_naive.py PORT
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from peers import torch_network
from workloads import SHAPES, TOKENIZER

torch_model = torch_network(SHAPES["M"])
torch.set_num_threads(1)  # with a thread for each request, more of them only get into each other's way


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_POST(self) -> None:
        asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        token, state = torch.zeros((1, 1), dtype=torch.long), None
        with torch.inference_mode():
            for _ in range(asked["max_tokens"]):
                logits, state = torch_model(token, state)
                token = torch.multinomial(torch.softmax(logits[0] / asked["temperature"], dim=1), 1)
                text = TOKENIZER.decode([int(token)])
                self.wfile.write(b"data: %b\n\n" % json.dumps({"choices": [{"text": text}]}).encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
