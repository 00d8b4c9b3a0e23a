"""Radiologist preferences for synthetic chest X-rays: sample sets, score them blinded, align, prove it downstream."""
