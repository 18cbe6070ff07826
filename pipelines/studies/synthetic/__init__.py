"""The correlated synthetic tasks of MMoE, sections 3.2 and 3.3, and the findings it draws from them."""
