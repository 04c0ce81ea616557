class Constraint:
    pass


def constraint(p, t):
    raise NotImplementedError
