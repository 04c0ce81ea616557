class StopStrings:
    def __init__(self, stops):
        self.stops = stops
        self.stopped = None
        self.held = ""

    def feed(self, piece):
        if self.stopped is not None:
            return ""
        if not self.stops:
            return piece
        t = self.held + piece
        hits = [(t.find(s), s) for s in self.stops if s in t]
        if hits:
            i, s = min(hits)
            self.stopped = s
            return t[:i]
        k = max((n for s in self.stops for n in range(1, len(s)) if t.endswith(s[:n])), default=0)
        self.held = t[len(t) - k :]
        return t[: len(t) - k]

    def finish(self):
        return self.held
