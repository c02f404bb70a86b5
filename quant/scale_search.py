"""Search for the best scale of a group of weights, over many groups at once.

Unusual: groups are columns. x [k, n] holds n groups of k weights, so that sums over a group are
sums of rows, which torch does at full speed; with groups along rows it is five times slower. Every
number of a group is a vector [n]. The candidates and their order are ggml's, so most blocks have
its bytes; sums are taken in another order, so not all. The order does not depend on the number of
threads or groups as long as n is a multiple of 32 (gguf_quantizer.py sees to that) and no fused
operation (addcmul) is used, which torch rounds differently at the end of a row.
"""

import torch
from torch import Tensor

TINY = 1e-15  # groups of smaller weights are zero (ggml's limit too)


def largest(x: Tensor) -> Tensor:
    """[k, n] -> [n], per group the value of largest magnitude, with its sign; ties: the first."""
    high, low = x.amax(0), x.amin(0)
    peak = torch.where(high >= -low, high, low)
    tie = ((high == -low) & (high > 0)).nonzero().squeeze(1)
    if len(tie):
        peak[tie] = x[:, tie].gather(0, x[:, tie].abs().argmax(0, keepdim=True)).squeeze(0)
    return peak


def finite(x: Tensor) -> Tensor:
    """x with 0 for NaN and infinity: the quotients of groups of zeros. In place."""
    return torch.nan_to_num_(x, 0, 0, 0)


def inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where that is not finite."""
    return finite(1 / x)


def over(number: float, x: Tensor) -> Tensor:
    """number / x as float32 division; `number / x` would be number * (1 / x), which breaks ties."""
    return torch.div(x.new_full((), number), x)


def _widths(first: float, by: float, count: int, top: int) -> Tensor:
    """Widths of the grids to try, rounded as float32 sums are."""
    first_, by_ = torch.tensor([first, by])
    return first_ + by_ * torch.arange(count + 1) + top


def affine(
    x: Tensor, weight: Tensor, top: int, steps: tuple[float, float, int], absolute: bool = False
) -> tuple[Tensor, Tensor]:
    """(scale, low) [n] with x ~ scale * q - low, q in 0..top, low >= 0, least weighted error.

    Tries the grids of steps (first, by, count), the scale and minimum of each fitted by least
    squares. A better minimum is also the origin of the grids that follow. The error is the square,
    or the magnitude where `absolute`.
    """
    high, low = x.amax(0), x.amin(0).clamp_(max=0)
    zero = high - low < TINY
    weighted = weight * x
    sum_w, sum_x = weight.sum(0), weighted.sum(0)
    work, codes, product = (torch.empty_like(x) for _ in range(3))

    def code(width: Tensor) -> Tensor:
        each = torch.div(width, high - low)
        torch.sub(x, low, out=codes).mul_(each).round_().clamp_(0, top)
        return each

    def error(scale: Tensor, minimum: Tensor) -> Tensor:
        torch.sub(minimum, x, out=work).add_(torch.mul(codes, scale, out=product))
        work.abs_() if absolute else work.mul_(work)
        return work.mul_(weight).sum(0)

    scale = 1 / code(torch.tensor(float(top)))
    best = error(scale, low)
    for width in _widths(*steps, top):
        code(width)
        torch.mul(codes, weight, out=product)
        sum_q = product.sum(0)
        sum_qq = product.mul_(codes).sum(0)
        sum_xq = torch.mul(codes, weighted, out=product).sum(0)
        below = sum_w * sum_qq - sum_q * sum_q
        fitted = (sum_w * sum_xq - sum_x * sum_q) / below
        minimum = (sum_qq * sum_x - sum_q * sum_xq) / below
        positive = minimum > 0
        fitted = torch.where(positive, sum_xq / sum_qq, fitted)
        minimum.masked_fill_(positive, 0)
        candidate = error(fitted, minimum)
        better = (candidate < best) & (below > 0)
        best = torch.where(better, candidate, best)
        scale = torch.where(better, fitted, scale)
        low = torch.where(better, minimum, low)
    return scale.masked_fill_(zero, 0).clamp_(min=0), -low


def symmetric(x: Tensor, weight: Tensor, levels: int) -> Tensor:
    """Scale [n] with x ~ scale * q, q in -levels..levels-1, least weighted square error.

    The value of largest magnitude sits on -levels; then grids that are up to 0.9 of a level wider
    or narrower are tried.
    """
    peak = largest(x)
    zero = peak.abs() < TINY
    weighted = weight * x
    codes, product = torch.empty_like(x), torch.empty_like(x)
    scale = best = torch.zeros_like(peak)
    for step in (0, *(t for t in range(-9, 10) if t)):
        torch.mul(x, over(-(levels + 0.1 * step), peak), out=codes)
        codes.round_().clamp_(-levels, levels - 1)
        sum_xq = torch.mul(codes, weighted, out=product).sum(0)
        sum_qq = torch.mul(codes, weight, out=product).mul_(codes).sum(0)
        fitted = sum_xq / sum_qq
        better = (sum_qq > 0) & ((sum_xq * sum_xq > best * sum_qq) | (step == 0))
        scale = torch.where(better, fitted, scale)
        best = torch.where(better, fitted * sum_xq, best)
    return scale.masked_fill_(zero, 0)


def _round(sums: Tensor, parts: tuple[Tensor, ...], low: int, high: int) -> Tensor:
    """One round of refine: sums [2, n] and codes change; -> [n] whether any code did."""
    sum_xq, sum_qq = sums
    changed = torch.zeros_like(sum_xq, dtype=torch.bool)
    for x, weight, weighted, codes in zip(*parts):
        others_x = sum_xq - weighted * codes
        others_q = sum_qq - (weight * codes).mul_(codes)
        new = (x * others_q).div_(others_x).round_().clamp_(low, high)
        new_x = others_x + weighted * new
        new_q = others_q.add_((weight * new).mul_(new))
        better = new_x * new_x * sum_qq > sum_xq * sum_xq * new_q
        better &= (others_x > 0) & (new_q > 0) & (new != codes)
        changed |= better
        for old, fresh in ((sum_xq, new_x), (sum_qq, new_q), (codes, new)):
            torch.where(better, fresh, old, out=old)
    return changed


def refine(x: Tensor, weight: Tensor, codes: Tensor, low: int, high: int) -> Tensor:
    """Scale [n] after up to 5 rounds in which each code moves to where it is best for the others.

    `codes` [k, n] is the start, and changed in place. Only groups that still move are looked at.
    """
    weighted = weight * x
    sums = torch.stack(((codes * weighted).sum(0), (codes * weight).mul_(codes).sum(0)))
    parts: tuple[Tensor, ...] = (x, weight, weighted, codes)
    now, places = sums, None
    for _ in range(5):
        keep = _round(now, parts, low, high).nonzero().squeeze(1)
        if places is not None:
            sums[:, places], codes[:, places] = now, parts[3]
        if not len(keep):
            break
        places = keep if places is None else places[keep]
        now, parts = now[:, keep], tuple(part[:, keep] for part in parts)
    return torch.where(sums[1] > 0, sums[0] / sums[1], 0)
